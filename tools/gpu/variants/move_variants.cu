#include "kernels.hpp"
#include "one_pass_move_device.cuh"

namespace fusco::variants {

namespace {

using cuda::MoveParams;
using cuda::one_pass_move::Tuning;

struct Present : Tuning {};
struct Late : Tuning {
  static constexpr bool publishesLate = true;
};
// Half a slice for twice the warps: shorter work items.
struct Halves : Tuning {
  static constexpr uint32_t warps = 8;
  static constexpr uint32_t stageBytes = 3584;
};
struct LateHalves : Halves {
  static constexpr bool publishesLate = true;
};
struct Quarters : Tuning {
  static constexpr uint32_t warps = 14;
  static constexpr uint32_t stages = 6;
  static constexpr uint32_t stageBytes = 2048;
};
struct Early : Late {
  static constexpr bool startsEarly = true;
};
struct EarlyHalves : LateHalves {
  static constexpr bool startsEarly = true;
};
// fp8 rows with their scales in one item.
struct Joined : Tuning {
  static constexpr uint32_t stageBytes = 7424;
  static constexpr bool joinsPayloads = true;
};
struct JoinedLate : Joined {
  static constexpr bool publishesLate = true;
};
struct JoinedEight : Joined {
  static constexpr uint32_t warps = 7;
  static constexpr uint32_t stages = 4;
};
struct JoinedHalves : Tuning {
  static constexpr uint32_t warps = 8;
  static constexpr uint32_t stages = 6;
  static constexpr uint32_t stageBytes = 3840;
  static constexpr bool joinsPayloads = true;
  static constexpr bool publishesLate = true;
};

template <class T>
cudaError_t launch(const MoveParams &params, uint32_t blocks, cudaStream_t stream) {
  using Shared = cuda::one_pass_move::Shared<T>;
  static_assert(sizeof(Shared) <= 232448 - 1024, "a block needs more shared memory than an SM has");
  return launchWith(cuda::one_pass_move::moveKernel<T>, params, blocks, T::warps * 32, sizeof(Shared), stream,
                    T::startsEarly);
}

template <class T>
MoveVariant variant(const char *name) {
  return {name, T::stageBytes, T::joinsPayloads, launch<T>};
}

}  // namespace

#ifdef FUSCO_OUTLINED_WAITS
std::vector<MoveVariant> moveVariantsOutlined() {
  return {variant<Present>("outlined waits"), variant<Late>("outlined waits, late flags"),
          variant<LateHalves>("outlined waits, late flags, 8 x 3584"),
          variant<JoinedLate>("outlined waits, late flags, joined")};
}
#else
std::vector<MoveVariant> moveVariants() {
  return {variant<Present>("present"),
          variant<Late>("late flags"),
          variant<Halves>("8 warps of 3584 bytes"),
          variant<LateHalves>("8 warps of 3584 bytes, late flags"),
          variant<Early>("late flags, early start"),
          variant<EarlyHalves>("8 warps of 3584 bytes, late flags, early start"),
          variant<Quarters>("14 warps of 2048 bytes"),
          variant<Joined>("joined"),
          variant<JoinedLate>("joined, late flags"),
          variant<JoinedEight>("joined, 7 warps of 4 stages"),
          variant<JoinedHalves>("joined, 8 warps of 3840 bytes, late flags")};
}
#endif

}  // namespace fusco::variants
