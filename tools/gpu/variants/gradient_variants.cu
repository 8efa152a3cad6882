#include "kernels.hpp"
#include "one_pass_gradient_device.cuh"

namespace fusco::variants {

namespace {

using cuda::CombineGradientParams;
using cuda::OnePassGrid;
using cuda::one_pass_gradient::Tuning;

struct Present : Tuning {};
// Fewer slots at a time: shorter items, and more lanes that work where a chunk
// has few slots.
struct FourSlots : Tuning {
  static constexpr uint32_t slotThreads = 8;
  static constexpr uint32_t inFlight = 14;
};
struct TwoSlots : Tuning {
  static constexpr uint32_t slotThreads = 16;
  static constexpr uint32_t inFlight = 28;
};
struct Fills : Tuning {
  static constexpr bool ownFillsWaits = true;
};
struct FillsFourSlots : FourSlots {
  static constexpr bool ownFillsWaits = true;
};
struct FillsTwoSlots : TwoSlots {
  static constexpr bool ownFillsWaits = true;
};
struct FillsSixteenWarps : FillsFourSlots {
  static constexpr uint32_t warps = 16;
};

template <class T>
cudaError_t launch(const CombineGradientParams &params, const OnePassGrid &grid,
                   cudaStream_t stream) {
  return cuda::launchOnePass<cuda::one_pass_gradient::Shared<T>>(
      cuda::one_pass_gradient::gradientKernel<T, cuda::DeviceBf16>, params,
      grid, T::warps, stream);
}

} // namespace

std::vector<GradientVariant> gradientVariants() {
  return {{"present", launch<Present>},
          {"8 threads a slot", launch<FourSlots>},
          {"16 threads a slot", launch<TwoSlots>},
          {"own fills waits", launch<Fills>},
          {"own fills waits, 8 threads a slot", launch<FillsFourSlots>},
          {"own fills waits, 16 threads a slot", launch<FillsTwoSlots>},
          {"own fills waits, 8 threads, 16 warps", launch<FillsSixteenWarps>}};
}

} // namespace fusco::variants
