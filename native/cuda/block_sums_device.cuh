// Warps and blocks of threads, and sums and least values of what their threads have.
#pragma once

#include <cstdint>

namespace fusco::cuda {

constexpr uint32_t warpSize_ = 32;
constexpr uint32_t wholeWarp = 0xffffffffu;

__device__ inline uint32_t laneOf() { return threadIdx.x % warpSize_; }
// The number of a warp in its block.
__device__ inline uint32_t blockWarp() { return threadIdx.x / warpSize_; }
__device__ inline uint32_t blockWarps() { return blockDim.x / warpSize_; }

// A sum over the lanes or threads below, and the sum of all.
template <class T>
struct Scan {
  T below;
  T all;
};

template <class T>
__device__ inline Scan<T> warpScan(T value) {
  T sum = value;
  for (uint32_t step = 1; step < warpSize_; step *= 2) {
    const T other = __shfl_up_sync(wholeWarp, sum, step);
    if (laneOf() >= step) sum += other;
  }
  return {sum - value, __shfl_sync(wholeWarp, sum, warpSize_ - 1)};
}

__device__ inline uint32_t warpSum(uint32_t value) {
  for (uint32_t step = warpSize_ / 2; step > 0; step /= 2) value += __shfl_xor_sync(wholeWarp, value, step);
  return value;
}

__device__ inline uint32_t warpMost(uint32_t value) {
  for (uint32_t step = warpSize_ / 2; step > 0; step /= 2) {
    const uint32_t other = __shfl_xor_sync(wholeWarp, value, step);
    if (other > value) value = other;
  }
  return value;
}

__device__ inline uint64_t warpLeast(uint64_t value) {
  for (uint32_t step = warpSize_ / 2; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(wholeWarp, value, step);
    if (other < value) value = other;
  }
  return value;
}

// Two sums and a least value over the threads of a block.
struct BlockTotals {
  uint32_t first;
  uint32_t second;
  uint64_t least;
};

// The lanes exchange all three at a time.
__device__ inline BlockTotals warpTotals(BlockTotals value) {
  for (uint32_t step = warpSize_ / 2; step > 0; step /= 2) {
    const uint64_t least = __shfl_xor_sync(wholeWarp, value.least, step);
    value.first += __shfl_xor_sync(wholeWarp, value.first, step);
    value.second += __shfl_xor_sync(wholeWarp, value.second, step);
    if (least < value.least) value.least = least;
  }
  return value;
}

// Shared memory of the functions below, which all threads of a block call: a place for each warp.
struct BlockWords {
  uint64_t words[warpSize_];
  BlockTotals totals[warpSize_];
};

// All threads get the result.
template <class T>
__device__ inline Scan<T> blockScan(T value, BlockWords &shared) {
  const Scan<T> inWarp = warpScan(value);
  // Other warps may still read what the last call left there.
  __syncthreads();
  if (laneOf() == 0) shared.words[blockWarp()] = inWarp.all;
  __syncthreads();
  const Scan<T> warps = warpScan(laneOf() < blockWarps() ? static_cast<T>(shared.words[laneOf()]) : T{0});
  return {__shfl_sync(wholeWarp, warps.below, blockWarp()) + inWarp.below, warps.all};
}

// A block calls this once. All threads get the result.
__device__ inline BlockTotals blockTotals(const BlockTotals &value, BlockWords &shared) {
  const BlockTotals inWarp = warpTotals(value);
  if (laneOf() == 0) shared.totals[blockWarp()] = inWarp;
  __syncthreads();
  return warpTotals(laneOf() < blockWarps() ? shared.totals[laneOf()] : BlockTotals{0, 0, UINT64_MAX});
}

}  // namespace fusco::cuda
