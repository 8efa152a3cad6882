#include "kernels.hpp"
#include "one_pass_gradient_device.cuh"

namespace fusco::variants {

namespace {

using cuda::CombineGradientParams;
using cuda::one_pass_gradient::Tuning;

struct Present : Tuning {};
struct Eight : Tuning {
  static constexpr uint32_t warps = 8;
};
struct Sixteen : Tuning {
  static constexpr uint32_t warps = 16;
};

template <class T>
cudaError_t launch(const CombineGradientParams &params, uint32_t blocks, cudaStream_t stream) {
  using Shared = cuda::one_pass_gradient::Shared<T>;
  static_assert(sizeof(Shared) <= 232448 - 1024, "a block needs more shared memory than an SM has");
  return launchWith(cuda::one_pass_gradient::gradientKernel<T, cuda::DeviceBf16>, params, blocks,
                    T::warps * 32, sizeof(Shared), stream);
}

}  // namespace

#ifdef FUSCO_OUTLINED_WAITS
std::vector<GradientVariant> gradientVariantsOutlined() {
  return {{"outlined waits", launch<Present>}, {"outlined waits, 16 warps", launch<Sixteen>}};
}
#else
std::vector<GradientVariant> gradientVariants() {
  return {{"present", launch<Present>}, {"8 warps", launch<Eight>}, {"16 warps", launch<Sixteen>}};
}
#endif

}  // namespace fusco::variants
