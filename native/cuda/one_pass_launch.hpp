// Launches of one-pass kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fusco::cuda {

// Shared memory of a block at most.
constexpr size_t mostSharedBytes = 232448 - 1024;

// The blocks of a launch.
struct OnePassGrid {
  uint32_t blocks;
  // Blocks may start before the launch in front of it on the stream has ended. They occupy SMs while they
  // wait for that, so this is for launches that take all SMs in any case. The kernel calls
  // awaitStreamOrder().
  bool startsEarly = false;
};

// Enqueues a kernel whose block has `warps` warps and one `Shared` of dynamic shared memory.
template <class Shared, class Params>
cudaError_t launchOnePass(void (*kernel)(Params), const Params &params, const OnePassGrid &grid,
                          uint32_t warps, cudaStream_t stream) {
  static_assert(sizeof(Shared) <= mostSharedBytes, "a block needs more shared memory than an SM has");
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared));
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = warps * 32;
  config.dynamicSmemBytes = sizeof(Shared);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = grid.startsEarly ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace fusco::cuda
