#include "one_pass_move_device.cuh"

namespace fusco::cuda {

cudaError_t launchMove(const MoveParams &params, uint32_t blocks, cudaStream_t stream) {
  using Tuning = one_pass_move::Tuning;
  using Shared = one_pass_move::Shared<Tuning>;
  const auto kernel = one_pass_move::moveKernel<Tuning>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared));
  if (error != cudaSuccess) return error;
  kernel<<<blocks, Tuning::warps * 32, sizeof(Shared), stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fusco::cuda
