// One rank of a run: its memory, and the parameters of its launches.
#pragma once

#include <utility>
#include <vector>

#include "kernels.hpp"
#include "ranks.hpp"
#include "workload.hpp"

namespace fusco::variants {

// Kernels of the program itself; they enqueue on a stream.
void fillRows(void *rows, uint64_t bytes, uint64_t seed, cudaStream_t stream);
void fillWeights(float *weights, uint64_t count, uint64_t seed,
                 cudaStream_t stream);
// Adds a hash of `bytes` bytes, a multiple of 8, to *hash.
void hashBytes(const void *memory, uint64_t bytes, unsigned long long *hash,
               cudaStream_t stream);
// Waits until *released is at least `value`.
void hold(volatile uint32_t *released, uint32_t value, cudaStream_t stream);

constexpr uint64_t rowBytes = 2 * hidden;
constexpr uint64_t codeBytes = hidden;            // of an fp8 row
constexpr uint64_t scaleBytes = hidden / 128 * 4; // of its scales

// What a launch is given besides its variant.
struct Shape {
  uint32_t blocks;
  uint32_t chunkTokens;
  uint32_t lagTokens; // dispatch and gradient
  uint32_t senders;   // combine
  bool startsEarly = false;
};

class Rank {
public:
  Rank(Meeting &meeting, const Workload &workload, uint32_t self);
  ~Rank();

  cudaStream_t stream() const { return stream_; }
  cuda::MoveParams move(const Shape &shape, bool isFp8) const;
  cuda::SumParams sum(const SumVariant &variant, const Shape &shape) const;
  cuda::CombineGradientParams gradient(const Shape &shape) const;

  // Poison, and hashes of, what the exchanges write.
  void poison();
  uint64_t hash();

private:
  template <class T> T *alloc(uint64_t bytes);
  template <class T> T *at(uint32_t rank, SharedBuffer buffer) const {
    return static_cast<T *>(meeting_.mapped[rank][self_][buffer]);
  }
  cuda::OnePassCommon common(const Shape &shape) const;
  cuda::ToldAddresses told(std::initializer_list<SharedBuffer> buffers) const;

  Meeting &meeting_;
  const Workload &workload_;
  const uint32_t self_;
  cudaStream_t stream_ = nullptr;
  std::vector<void *> allocated_;
  cuda::OnePassTables tables_{};
  cuda::DeviceTables plan_{};
  cuda::DeviceSignals *signals_ = nullptr;
  cuda::WaitFailure *failure_ = nullptr; // host memory
  uint8_t *rows_ = nullptr;    // of tokens: x, and the output gradient
  uint8_t *experts_ = nullptr; // what combine reads
  float *weights_ = nullptr;
  uint8_t *combined_ = nullptr;
  unsigned long long *hash_ = nullptr;
  std::vector<std::pair<void *, uint64_t>> outputs_;
};

} // namespace fusco::variants
