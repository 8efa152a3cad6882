// Host side of one-pass exchanges: the tables of a plan, the signals between devices, and the launches.
#pragma once

#include <memory>
#include <vector>

#include "cuda_context.hpp"
#include "one_pass.hpp"
#include "one_pass_tables.hpp"
#include "plan.hpp"

namespace fusco::cuda {

// Memory that a call needs.
struct OnePassNeed {
  uint64_t flags = 0;                  // of each rank
  uint64_t pushedEntries = 0;          // in each of the two sets of weights of a device
  std::vector<uint64_t> landingBytes;  // [ranks], or empty

  bool fitsIn(const OnePassNeed &capacity) const;
};

// Signals of the devices of a context, and the buffers that they exchange rows through. They only grow, and
// buffers that were replaced stay allocated as long as the context, because captured graphs may use them.
class OnePassSignals {
 public:
  explicit OnePassSignals(CudaContext &context);
  ~OnePassSignals();
  OnePassSignals(const OnePassSignals &) = delete;
  OnePassSignals &operator=(const OnePassSignals &) = delete;

  // Allocates what is missing, also in a capture. Throws E_MEMORY.
  void reserve(const OnePassNeed &need);

  // Parameters of a launch on device group `index`.
  OnePassCommon common(size_t index, const OnePassTables &tables, uint32_t chunkTokens) const;
  // Parameters of launchReadyEdge() on device group `index`.
  OnePassCommon readyEdge(size_t index) const;
  void addSum(SumParams &params) const;
  // Where other devices store weights on the device of a group, two sets of pushedEntries().
  uint64_t *pushed(size_t index) const { return reinterpret_cast<uint64_t *>(pushed_[index].data); }
  uint64_t pushedEntries() const { return pushedEntries_; }
  // What there is now; launches that are captured keep these buffers.
  OnePassNeed capacity() const;
  // Throws E_PEER_TIMEOUT if a wait passed its deadline.
  void checkWaits() const;

 private:
  struct Grown {
    uint8_t *data = nullptr;
    uint64_t bytes = 0;
  };
  void grow(Grown &buffer, uint32_t rank, uint64_t bytes, bool isZeroed);

  CudaContext &context_;
  std::vector<DeviceSignals *> signals_;          // [devices]
  std::vector<Grown> flags_;                      // [ranks]
  std::vector<Grown> landing_;                    // [ranks]
  std::vector<Grown> pushed_;                     // [devices]
  std::vector<std::pair<uint32_t, void *>> old_;  // device, memory
  uint64_t pushedEntries_ = 0;
  WaitFailure *failure_ = nullptr;
};

// What the shape of a launch depends on: the same on all devices.
struct OnePassCase {
  uint32_t devices;
  uint32_t sms;    // that the launch may fill
  bool isLimited;  // to that number, by the caller
  uint32_t topk;
  uint32_t maxTokens;     // of any rank
  uint32_t payloads = 1;  // that the TMA unit moves
};

struct OnePassShape {
  OnePassGrid grid;
  uint32_t chunkTokens = 0;  // tokens of a chunk
  uint32_t lag = 0;          // chunks between sending and copying on
  uint32_t senders = 0;      // blocks of a combine that begin with sends
};
OnePassShape dispatchShape(const OnePassCase &c);
OnePassShape combineShape(const OnePassCase &c);
OnePassShape gradientShape(const OnePassCase &c);

// Flags that a rank needs for launches with such chunks, where ranks have at most `tokens` tokens.
uint64_t onePassFlags(uint32_t ranks, uint64_t tokens, uint32_t chunkTokens, uint64_t slices);
// Sets the first slice of each leading payload of a launch, and the number of slices: at least one, which
// moves the other payloads.
void addSlices(MoveParams &move);

}  // namespace fusco::cuda
