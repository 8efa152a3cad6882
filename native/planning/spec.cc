#include "spec.hpp"

#include <algorithm>
#include <numeric>

#include "failure.hpp"
#include "plan_layout.h"
#include "plan_types.hpp"

namespace fusco::planning {

namespace {

constexpr uint32_t defaultHidden = 7168;
constexpr uint64_t defaultSliceBytes = 1 << 20;
constexpr uint32_t maxSliceRows = 1 << 20;

uint32_t checkRange(const char *name, uint64_t value, uint64_t least, uint64_t most) {
  if (value >= least && value <= most) return static_cast<uint32_t>(value);
  throw Failure(FUSCO_E_OPTION, "%s is %llu; it must be an integer from %llu to %llu", name, value, least,
                most)
      .limited(value, value < least ? least : most);
}

// An enumeration whose values are 0 to `last`.
template <class T>
T checkChoice(const char *name, T value, T last) {
  if (value >= 0 && value <= last) return value;
  throw Failure(FUSCO_E_OPTION, "%s is %d; it must be from 0 to %d", name, value, last);
}

uint64_t elementBytes(fusco_dtype dtype) {
  switch (dtype) {
    case FUSCO_DTYPE_F32:
      return 4;
    case FUSCO_DTYPE_F16:
    case FUSCO_DTYPE_BF16:
      return 2;
    default:
      return 1;
  }
}

uint32_t ranksPerNodeOf(uint32_t given, uint32_t ranks) {
  if (given == 0) {
    uint32_t size = std::min(8u, ranks);
    while (ranks % size != 0) size--;
    return size;
  }
  checkRange("ranksPerNode", given, 1, ranks);
  if (ranks % given == 0) return given;
  throw Failure(FUSCO_E_OPTION, "ranksPerNode %u does not divide %u ranks", given, ranks)
      .limited(given, ranks);
}

}  // namespace

fusco_dtype defaultCombineDtype(fusco_dtype dtype) {
  return dtype == FUSCO_DTYPE_FP8 ? FUSCO_DTYPE_BF16 : dtype;
}

Spec makeSpec(const fusco_plan_options &options) {
  Spec spec;
  spec.ranks = checkRange("ranks", options.ranks, 1, FUSCO_MAX_RANKS);
  spec.experts = checkRange("experts", options.experts, 1, FUSCO_MAX_INSTANCES);
  spec.topk = checkRange("topk", options.topk, 1, FUSCO_MAX_TOPK);
  spec.hidden = options.hidden == 0 ? defaultHidden : options.hidden;
  checkRange("hidden", spec.hidden, 1, FUSCO_MAX_ROW_BYTES);
  spec.dtype = checkChoice("dtype", options.dtype, FUSCO_DTYPE_FP8);
  const uint64_t rowBytes = spec.hidden * elementBytes(spec.dtype);
  checkRange("hidden x dtype", rowBytes, 1, FUSCO_MAX_ROW_BYTES);
  spec.combineDtype = checkChoice("combineDtype", options.combine_dtype, FUSCO_DTYPE_FP8);
  if (spec.combineDtype == FUSCO_DTYPE_BYTES) spec.combineDtype = defaultCombineDtype(spec.dtype);
  spec.ranksPerNode = ranksPerNodeOf(options.ranks_per_node, spec.ranks);
  spec.nodes = spec.ranks / spec.ranksPerNode;
  spec.align = checkRange("align", options.align == 0 ? 1 : options.align, 1, maxSliceRows);
  spec.capacity = checkRange("capacity", options.capacity, 0, FUSCO_MAX_ROWS);
  spec.strategy = checkChoice("strategy", options.strategy, FUSCO_STRATEGY_AUTO);
  spec.balance = checkChoice("balance", options.balance, FUSCO_BALANCE_LPT);
  spec.partial = checkChoice("partial", options.partial, FUSCO_PARTIAL_F32);
  spec.sum = checkChoice("sum", options.sum, FUSCO_SUM_TOKEN);
  spec.replicas = checkChoice("replicas", options.replicas, FUSCO_REPLICAS_LOCAL);
  const uint64_t sliceRows = std::clamp<uint64_t>(defaultSliceBytes / rowBytes, 1, maxSliceRows);
  spec.sliceRows =
      checkRange("sliceRows", options.slice_rows == 0 ? sliceRows : options.slice_rows, 1, maxSliceRows);
  spec.tileTokens = checkRange("tileTokens", options.tile_tokens, 0, maxTileEntries / spec.topk);
  spec.maxRows = checkRange("maxRows", options.max_rows, 0, FUSCO_MAX_ROWS);
  if (options.placement_offsets != nullptr && options.placement_ranks == nullptr) {
    throw Failure(FUSCO_E_OPTION, "placement_ranks is NULL, but placement_offsets is not");
  }
  spec.placement = makePlacement(spec.experts, spec.ranks, spec.ranksPerNode, options.placement_offsets,
                                 options.placement_ranks);
  return spec;
}

Spec makeSettledSpec(const fusco_plan_options &options) {
  if (options.strategy == FUSCO_STRATEGY_AUTO) {
    throw Failure(FUSCO_E_OPTION, "only planning on the host settles auto; give flat or hier");
  }
  return makeSpec(options);
}

uint32_t ranksPerHostOf(const fusco_plan_options &options, const Spec &spec) {
  if (spec.strategy != FUSCO_STRATEGY_AUTO) return 0;
  if (options.ranks_per_host == 0) return spec.ranksPerNode;
  const uint32_t size = checkRange("ranksPerHost", options.ranks_per_host, 1, spec.ranks);
  if (spec.ranks % size == 0 && size % spec.ranksPerNode == 0) return size;
  throw Failure(FUSCO_E_OPTION, "ranksPerHost %u is not a multiple of ranksPerNode %u that divides %u ranks",
                size, spec.ranksPerNode, spec.ranks)
      .limited(size, spec.ranks);
}

CandidateLists targetsOf(const Spec &spec, uint32_t rank) {
  if (!spec.hasQuotas()) return localCandidates(spec.placement, rank, spec.nodeOf(rank));
  CandidateLists experts;
  experts.first.resize(spec.experts);
  experts.count.assign(spec.experts, 1);
  experts.instances.resize(spec.experts);
  std::iota(experts.instances.begin(), experts.instances.end(), uint16_t{0});
  return experts;
}

DirectRange directRange(const Spec &spec, bool isFlat, uint32_t rank) {
  const std::vector<uint32_t> &first = spec.placement.rankFirst;
  const uint32_t firstRank = isFlat ? 0 : spec.nodeOf(rank) * spec.ranksPerNode;
  const uint32_t endRank = isFlat ? spec.ranks : firstRank + spec.ranksPerNode;
  return {firstRank, endRank, first[firstRank], first[endRank]};
}

}  // namespace fusco::planning
