#include "one_pass_gradient_device.cuh"

namespace fusco::cuda {

cudaError_t launchCombineGradient(const CombineGradientParams &params, uint32_t blocks, cudaStream_t stream) {
  using one_pass_gradient::Tuning;
  const auto kernel = forElement(params.dispatch.payload[0].dtype, [](auto element) {
    return one_pass_gradient::gradientKernel<Tuning, decltype(element)>;
  });
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 sizeof(one_pass_gradient::Shared<Tuning>));
  if (error != cudaSuccess) return error;
  kernel<<<blocks, Tuning::warps * 32, sizeof(one_pass_gradient::Shared<Tuning>), stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fusco::cuda
