#include "kernels.hpp"
#include "one_pass_sum_device.cuh"

namespace fusco::variants {

namespace {

using cuda::DeviceBf16;
using cuda::OnePassGrid;
using cuda::SumParams;
using cuda::one_pass_sum::Tuning;

struct Present : Tuning {};
// Reads of shared memory overlap.
struct Ahead : Tuning {
  static constexpr uint32_t ahead = 4;
};
// Half the registers for sums, so that a lane reads all of its pieces of a row
// at once.
struct OwnFirst : Tuning {
  static constexpr bool ownFirst = true;
  static constexpr uint32_t ahead = 7;
};
struct OwnFirstEarly : OwnFirst {
  static constexpr bool asksEarly = true;
};
// More warps hide more of one another's latency; their stages must fit.
struct FourteenWarps : OwnFirstEarly {
  static constexpr uint32_t warps = 14;
  static constexpr uint32_t stages = 3;
  static constexpr uint32_t ahead = 4;
};
struct SixteenWarps : OwnFirstEarly {
  static constexpr uint32_t warps = 16;
  static constexpr uint32_t stages = 2;
  static constexpr uint32_t ahead = 4;
};
// Twice the slice for each job, wait and load.
struct Wide : OwnFirstEarly {
  static constexpr uint32_t warps = 7;
  static constexpr uint32_t stages = 3;
  static constexpr uint32_t stageBytes = 7168;
};
struct WideEight : Wide {
  static constexpr uint32_t warps = 8;
  static constexpr uint32_t stages = 2;
};
struct Early : Tuning {
  static constexpr bool asksEarly = true;
};
struct Tagged : Tuning {
  static constexpr bool tagsWeights = true;
};
struct TaggedEarly : Tagged {
  static constexpr bool asksEarly = true;
};
struct TaggedOwnFirst : OwnFirstEarly {
  static constexpr bool tagsWeights = true;
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
          variant<Ahead>("4 pieces ahead"),
          variant<OwnFirst>("own first, 7 ahead"),
          variant<OwnFirstEarly>("own first, 7 ahead, asks early"),
          variant<FourteenWarps>("own first, 4 ahead, asks early, 14 x 3"),
          variant<SixteenWarps>("own first, 4 ahead, asks early, 16 x 2"),
          variant<Wide>("own first, asks early, 7 x 3 x 7168"),
          variant<WideEight>("own first, asks early, 8 x 2 x 7168"),
          variant<Early>("asks early"),
          variant<Tagged>("tagged weights"),
          variant<TaggedEarly>("tagged weights, asks early"),
          variant<TaggedOwnFirst>("own first, 7 ahead, asks early, tagged")};
}

} // namespace fusco::variants
