#include "kernels.hpp"
#include "one_pass_sum_device.cuh"

namespace fusco::variants {

namespace {

using cuda::DeviceBf16;
using cuda::OnePassGrid;
using cuda::SumParams;
using cuda::one_pass_sum::OwnFirst;

struct Present : OwnFirst {};
// As many warps as without, which have more rows on their way.
struct TwelveWarps : OwnFirst {
  static constexpr uint32_t warps = 12;
  static constexpr uint32_t stages = 4;
  static constexpr uint32_t ahead = 7;
};

template <class T>
cudaError_t launch(const SumParams &params, const OnePassGrid &grid,
                   cudaStream_t stream) {
  return cuda::launchOnePass<cuda::one_pass_sum::Shared<T>>(
      cuda::one_pass_sum::sumKernel<T, DeviceBf16, DeviceBf16>, params, grid,
      T::warps, stream);
}

template <class T> SumVariant variant(const char *name) {
  return {name, cuda::SliceOf<DeviceBf16, DeviceBf16, T::stageBytes>::elements,
          launch<T>};
}

} // namespace

std::vector<SumVariant> sumVariants() {
  return {variant<Present>("present"),
          variant<TwelveWarps>("12 warps, 4 stages, 7 pieces ahead")};
}

} // namespace fusco::variants
