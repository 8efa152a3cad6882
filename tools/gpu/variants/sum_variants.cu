#include "kernels.hpp"
#include "one_pass_sum_device.cuh"

namespace fusco::variants {

namespace {

using cuda::DeviceBf16;
using cuda::SumParams;
using cuda::one_pass_sum::Tuning;

struct Present : Tuning {};
struct Prefetched : Tuning {
  static constexpr bool prefetches = true;
};
struct Late : Tuning {
  static constexpr bool publishesLate = true;
};
struct PrefetchedLate : Prefetched {
  static constexpr bool publishesLate = true;
};
// Three stages leave shared memory for all entries of a chunk of 16 tokens.
struct LongLists : PrefetchedLate {
  static constexpr uint32_t stages = 3;
  static constexpr uint32_t jobBatch = 128;
};
// As many registers as no spill needs.
struct ElevenWarps : PrefetchedLate {
  static constexpr uint32_t warps = 11;
};
struct DeepWarps : PrefetchedLate {
  static constexpr uint32_t stages = 7;
  static constexpr uint32_t stageBytes = 2048;
};
struct SixteenWarps : PrefetchedLate {
  static constexpr uint32_t warps = 16;
  static constexpr uint32_t stages = 5;
  static constexpr uint32_t stageBytes = 2048;
};
struct TwentyWarps : PrefetchedLate {
  static constexpr uint32_t warps = 20;
  static constexpr uint32_t stages = 5;
  static constexpr uint32_t stageBytes = 1536;
};

struct Early : PrefetchedLate {
  static constexpr bool startsEarly = true;
};

template <class T>
cudaError_t launch(const SumParams &params, uint32_t blocks, cudaStream_t stream) {
  using Shared = cuda::one_pass_sum::Shared<T>;
  static_assert(sizeof(Shared) <= 232448 - 1024, "a block needs more shared memory than an SM has");
  return launchWith(cuda::one_pass_sum::sumKernel<T, DeviceBf16, DeviceBf16>, params, blocks, T::warps * 32,
                    sizeof(Shared), stream, T::startsEarly);
}

template <class T>
SumVariant variant(const char *name) {
  return {name, cuda::SliceOf<DeviceBf16, DeviceBf16, T::stageBytes>::elements, launch<T>};
}

}  // namespace

#ifdef FUSCO_OUTLINED_WAITS
std::vector<SumVariant> sumVariantsOutlined() {
  return {variant<Present>("outlined waits"),
          variant<PrefetchedLate>("outlined waits, prefetched, late flags"),
          variant<SixteenWarps>("outlined waits, prefetched, late flags, 16 x 5 x 2048")};
}
#else
std::vector<SumVariant> sumVariants() {
  return {variant<Present>("present"),
          variant<Prefetched>("prefetched"),
          variant<Late>("late flags"),
          variant<PrefetchedLate>("prefetched, late flags"),
          variant<LongLists>("prefetched, late flags, 12 x 3, lists of 128"),
          variant<ElevenWarps>("prefetched, late flags, 11 x 4"),
          variant<DeepWarps>("prefetched, late flags, 12 x 7 x 2048"),
          variant<SixteenWarps>("prefetched, late flags, 16 x 5 x 2048"),
          variant<Early>("prefetched, late flags, early start"),
          variant<TwentyWarps>("prefetched, late flags, 20 x 5 x 1536")};
}
#endif

}  // namespace fusco::variants
