// Zeros behind the rows that a plan fills: how many those are is known on the device only.

#include <algorithm>

#include "row_launch.hpp"

namespace fusco::cuda {

namespace {

constexpr uint32_t threads = 256;
// Enough to write at the speed of the memory, and few enough to be cheap where there is nothing to write.
constexpr uint32_t blocksPerSm = 4;

template <class Unit>
__global__ void clearRows(ClearParams p) {
  const uint64_t units = p.bytes / sizeof(Unit);
  const uint64_t unitsPerRow = p.rowBytes / sizeof(Unit);
  auto *to = reinterpret_cast<Unit *>(p.rows);
  const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
  // A larger number of rows than there are leaves nothing to do.
  const uint64_t first = *p.first * unitsPerRow + uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (uint64_t i = first; i < units; i += stride) to[i] = Unit{};
}

}  // namespace

cudaError_t launchClear(const ClearParams &params, const DeviceLimits &limits, cudaStream_t stream) {
  if (params.bytes == 0) return cudaSuccess;
  const bool wide = (reinterpret_cast<uintptr_t>(params.rows) | params.rowBytes) % sizeof(uint4) == 0;
  const uint64_t units = params.bytes / (wide ? sizeof(uint4) : 1);
  const uint64_t most = uint64_t{limits.sms} * blocksPerSm;
  const auto blocks = static_cast<uint32_t>(std::min(most, (units + threads - 1) / threads));
  if (wide) {
    clearRows<uint4><<<blocks, threads, 0, stream>>>(params);
  } else {
    clearRows<uint8_t><<<blocks, threads, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

}  // namespace fusco::cuda
