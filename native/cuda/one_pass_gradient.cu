#include "one_pass_gradient_device.cuh"

namespace fusco::cuda {

cudaError_t launchCombineGradient(const CombineGradientParams &params, const OnePassGrid &grid,
                                  cudaStream_t stream) {
  using one_pass_gradient::Tuning;
  const auto kernel = forElement(params.dispatch.payload[0].dtype, [](auto element) {
    return one_pass_gradient::gradientKernel<Tuning, decltype(element)>;
  });
  return launchOnePass<one_pass_gradient::Shared<Tuning>>(kernel, params, grid, Tuning::warps, stream);
}

}  // namespace fusco::cuda
