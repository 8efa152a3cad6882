// Host side of the kernels of exchanges: each call enqueues on a stream of the current device and returns
// CUDA's verdict. Pointers in parameters are device memory that must stay valid until the kernel has run.
#pragma once

#include <cuda_runtime_api.h>

#include "device_tables.hpp"

namespace fusco::cuda {

// What a launch needs to know of its device.
struct DeviceLimits {
  uint32_t sms;                // that exchanges may fill
  uint32_t sharedBytes;        // of one block, at most
  uint32_t sharedBytesPerSm;   // of all blocks of an SM
  uint32_t maxCombineSms = 0;  // that a combine may fill; 0: all
};

// Bytes of a row that a tile holds at a time: the whole row, or equal pieces of at most maxChunk.
uint32_t chunkOf(uint64_t rowBytes);

// The tiling of a launch whose longest chunk is `chunkBytes`. `planTile` is the plan's own tile in tokens, or
// 0.
Tiling chooseTiling(const DeviceLimits &limits, uint32_t topk, uint32_t chunkBytes, uint32_t planTile);

// Moves every payload, origins and padding in one launch.
cudaError_t launchDispatch(const DispatchParams &params, const DeviceLimits &limits, cudaStream_t stream);
// Dispatch of per-token payloads scaled by each entry's weight; the rest as above.
cudaError_t launchScaled(const DispatchParams &params, const DeviceLimits &limits, cudaStream_t stream);

struct CombineLaunch {
  fusco_dtype dtype = FUSCO_DTYPE_BYTES;
  Tree tree = Tree::none;
  bool isWeighted = false;
  uint32_t unit = 1;  // bytes of the widest access that all rows allow; 16: vectors, else elements
  uint64_t tokens =
      0;             // blocks at most: the plan's capacity, so that a captured launch suits every plan in it
  uint32_t sms = 0;  // that blocks may fill, taking turns; 0: a block for each token
};
cudaError_t launchCombine(const CombineParams &params, const CombineLaunch &launch, cudaStream_t stream);
// `unit`: bytes of the widest access that the rows `upstream` and `from` allow.
cudaError_t launchGradient(const GradientParams &params, const DeviceLimits &limits, fusco_dtype dtype,
                           uint32_t unit, cudaStream_t stream);

}  // namespace fusco::cuda
