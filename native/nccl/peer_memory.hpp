// The library's own memory on each rank of a machine, which the others write: signals, flags, weights and
// landing rows of one-pass exchanges. Sizes and layout are the same on all ranks.
#pragma once

#include <memory>
#include <vector>

#include "edges.hpp"
#include "fusco_nccl.h"
#include "one_pass_gradient.hpp"
#include "plan_buffer.hpp"

namespace fusco::nccl {

class Group;

// What an exchange needs on each rank; the same on all ranks.
struct PeerNeed {
  uint64_t flags = 0;
  uint64_t pushedEntries = 0;  // in each of the two sets of weights
  uint64_t landingBytes = 0;
  cuda::FactBytes facts{};  // of plans that are made on the device
};

// All members are called by the group's thread, with its device current.
class PeerMemory {
 public:
  // Collective.
  explicit PeerMemory(Group &group);
  ~PeerMemory();
  PeerMemory(const PeerMemory &) = delete;
  PeerMemory &operator=(const PeerMemory &) = delete;

  // Allocates and maps what is missing; collective then, and waits for the other ranks. Memory only grows,
  // and what was replaced stays as long as the group, because captured graphs may use it. Throws E_MEMORY in
  // a capture; E_PEER_MISMATCH, E_PEER_TIMEOUT.
  void reserve(const fusco_nccl_call &call, const PeerNeed &need);

  // Parameters of a launch; `digest` is compared with that of the others.
  cuda::OnePassCommon common(const cuda::OnePassTables &tables, uint32_t chunkTokens, uint64_t digest) const;
  void addSum(cuda::SumParams &params) const;
  void addGradient(cuda::CombineGradientParams &params) const;
  // Where rank `neighbor` takes the facts of a plan, in this process's address space.
  cuda::FactInbox factInbox(uint32_t neighbor) const;
  // Of the kernels between the edges of launchBeginEdge() and launchEndEdge().
  cuda::PeerRows rows() const;
  uint64_t *addresses() const { return addresses_; }
  // Ends the waits of kernels. From any thread.
  void endWaits() noexcept;
  // After a mismatch: the first neighbor whose call of this epoch has another digest. Waits for kernels.
  uint32_t otherCaller(uint32_t epoch, uint64_t digest) const;

 private:
  // A buffer of each rank, in this process's address space, [neighbors].
  using OfRanks = std::vector<uint8_t *>;
  OfRanks allocate(const fusco_nccl_call &call, uint64_t bytes, uint64_t zeroed);
  void compareCalls(uint64_t digest);

  Group &group_;
  PeerNeed capacity_;
  std::vector<void *> allocated_;
  OfRanks signals_;
  OfRanks grown_;  // flags, weights, landing rows, counts, other facts
  uint64_t *addresses_ = nullptr;
  cudaStream_t aborts_ = nullptr;
  uint32_t *poison_ = nullptr;  // pinned host memory
};

}  // namespace fusco::nccl
