#include "kernels.hpp"
#include "one_pass_gradient_device.cuh"

namespace fusco::variants {

namespace {

using cuda::CombineGradientParams;
using cuda::OnePassGrid;
using cuda::one_pass_gradient::Tuning;

struct Present : Tuning {};
template <class T>
cudaError_t launch(const CombineGradientParams &params, const OnePassGrid &grid,
                   cudaStream_t stream) {
  return cuda::launchOnePass<cuda::one_pass_gradient::Shared<T>>(
      cuda::one_pass_gradient::gradientKernel<T, cuda::DeviceBf16>, params,
      grid, T::warps, stream);
}

} // namespace

std::vector<GradientVariant> gradientVariants() {
  return {{"present", launch<Present>}};
}

} // namespace fusco::variants
