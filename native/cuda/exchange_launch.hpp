// Host side of the kernels: each call enqueues on a stream of the current device and returns CUDA's verdict.
#pragma once

#include <cuda_runtime_api.h>

#include "device_tables.hpp"

namespace fusco::cuda {

// What a launch needs to know of its device.
struct DeviceLimits {
  uint32_t sms;
  uint32_t sharedBytes;        // of one block, at most
  uint32_t sharedBytesPerSm;   // of all blocks of a multiprocessor
  uint32_t maxCombineSms = 0;  // that a combine may fill; 0: all
};

// Bytes of a row that a tile holds at a time: the whole row, or pieces of at most 16 KiB.
uint32_t chunkOf(uint64_t rowBytes);

// The tiling of a launch whose longest chunk is `chunkBytes`. `planTile` is the plan's own tile or 0.
Tiling chooseTiling(const DeviceLimits &limits, uint32_t topk, uint32_t chunkBytes, uint32_t planTile);

// Whether a block with this tiling fits the device.
bool tilingFits(const DeviceLimits &limits, const Tiling &tiling, uint32_t topk, uint32_t chunkBytes);

// Moves every payload, origins and padding in one launch.
cudaError_t launchDispatch(const DispatchParams &params, const DeviceLimits &limits, cudaStream_t stream);
// Dispatch of per-token payloads scaled by each entry's weight; the rest as above.
cudaError_t launchScaled(const DispatchParams &params, const DeviceLimits &limits, cudaStream_t stream);
// The last hops of landed rows, of every per-token payload.
cudaError_t launchSpread(const DispatchParams &params, const DeviceLimits &limits, cudaStream_t stream);
// A block for each of `tokens` tokens, the slot's capacity, so that a captured launch suits every plan of the
// slot. `unit` 16: wide accesses; `threads` 0: chosen; `sms` 0: all, else blocks take turns on so
// many.
cudaError_t launchCombine(const CombineParams &params, fusco_dtype dtype, bool weighted, uint32_t tree,
                          uint32_t unit, uint64_t tokens, uint32_t threads, cudaStream_t stream,
                          uint32_t sms = 0);
cudaError_t launchGradient(const GradientParams &params, const DeviceLimits &limits, fusco_dtype dtype,
                           cudaStream_t stream);

}  // namespace fusco::cuda
