#include "plan_sizes.hpp"

#include <algorithm>
#include <numeric>

#include "failure.hpp"
#include "plan_layout.h"
#include "quota_work.hpp"
#include "small_plan.hpp"

namespace fusco::cuda {

namespace {

using planning::Placement;
using planning::Spec;

// Entries that a warp counts: few, since it takes them one after the other, but so many that large tables
// have few tiles to scan. From 32,768 tokens with eight experts each on a tile has mostTileEntries.
constexpr uint64_t leastTileEntries = 64;
constexpr uint64_t mostTileEntries = 256;
constexpr uint64_t scannedTiles = 1024;
constexpr uint32_t warpLanes_ = 32;
// Words of counters for each entry of a full tile, at most: 256 targets, the most of usual models, still have
// tiles of leastTileEntries.
constexpr uint64_t counterWordsPerEntry = 4;
// The same for small plans of which one block has a warp for each of the least tiles.
constexpr uint32_t roundCounterWords = 8;
constexpr uint64_t mostBlockWarps = 32;

uint32_t roundUp(uint64_t value, uint32_t unit) {
  return static_cast<uint32_t>((value + unit - 1) / unit * unit);
}

// Lays tiles of `tileEntries` entries for a small plan. Returns whether the plan is small with them.
bool laySmallTiles(PlanSizes &sizes, uint32_t tileEntries) {
  const uint64_t entries = std::max<uint64_t>(1, sizes.maxEntries());
  sizes.tileEntries = tileEntries;
  // The counters of a tile are in different banks of shared memory.
  sizes.tiles = static_cast<uint32_t>((entries + tileEntries - 1) / tileEntries | 1);
  PlanBuffer offsets;
  layPlanBuffer(sizes, nullptr, offsets);
  sizes.isSmall = sharedPlanBytes(offsets) <= mostPlanShared ? 1 : 0;
  return sizes.isSmall != 0;
}

// A tile has whole tokens, and all lanes of a warp work on it. Some tiles at the end may be empty.
void layTiles(PlanSizes &sizes) {
  const uint32_t unit = std::lcm(warpLanes_, sizes.topk);
  const uint64_t entries = std::max<uint64_t>(1, sizes.maxEntries());
  // The least tiles where one block has a warp for each: a warp takes the entries of its tile in turns.
  const bool hasWarps = entries <= uint64_t{unit} * mostBlockWarps;
  const bool hasFewTargets = sizes.targets <= unit * roundCounterWords;
  if (hasWarps && hasFewTargets && laySmallTiles(sizes, unit)) return;
  // Few tiles for many targets, so that their counters take little memory.
  const uint64_t wanted =
      std::min<uint64_t>(entries, (sizes.targets + counterWordsPerEntry - 1) / counterWordsPerEntry);
  const uint64_t few = std::clamp(entries / scannedTiles, leastTileEntries, mostTileEntries);
  const uint32_t tileEntries = roundUp(std::max(wanted, few), unit);
  if (laySmallTiles(sizes, tileEntries)) return;
  // Sectors start at multiples of tilesOfBlock.
  sizes.tiles = roundUp((entries + tileEntries - 1) / tileEntries, tilesOfBlock);
}

// Throws E_LIMIT unless every plan of these options stays within the format.
void checkLimits(const PlanSizes &sizes) {
  const uint64_t rows = mostRecvRows(sizes);
  if (sizes.maxEntries() <= FUSCO_MAX_ROWS && rows <= FUSCO_MAX_ROWS) return;
  throw Failure(FUSCO_E_LIMIT, "max_tokens %u: a rank may receive %llu rows, the limit is %d",
                sizes.maxTokens, rows, FUSCO_MAX_ROWS)
      .limited(rows, FUSCO_MAX_ROWS);
}

}  // namespace

PlanSizes planSizes(const Spec &spec, const fusco_cuda_plan_limits &limits) {
  if (spec.maxRows > 0) {
    throw Failure(
        FUSCO_E_OPTION,
        "planning on the device has no max_rows: max_recv_rows of its limits bounds receive buffers");
  }
  if (spec.ranks > maxRanks) {
    throw Failure(FUSCO_E_OPTION, "%u ranks; planning on the device takes 1 to %u", spec.ranks, maxRanks)
        .limited(spec.ranks, maxRanks);
  }
  const Placement &placement = spec.placement;
  PlanSizes sizes{};
  sizes.ranks = spec.ranks;
  sizes.ranksPerNode = spec.ranksPerNode;
  sizes.nodes = spec.nodes;
  sizes.experts = spec.experts;
  sizes.instances = placement.instances;
  sizes.targets = spec.targets();
  if (spec.hasQuotas()) {
    sizes.groups = static_cast<uint32_t>(planning::groupReplicas(placement).first.size()) - 1;
  }
  sizes.topk = spec.topk;
  sizes.capacity = spec.capacity;
  sizes.align = spec.align;
  sizes.maxTokens = limits.max_tokens;
  sizes.maxRecvRows = limits.max_recv_rows == 0 ? FUSCO_MAX_ROWS : limits.max_recv_rows;
  for (uint32_t rank = 0; rank < spec.ranks; rank++) {
    sizes.maxLocal = std::max(sizes.maxLocal, placement.rankFirst[rank + 1] - placement.rankFirst[rank]);
  }
  sizes.isFlat = spec.isFlat() ? 1 : 0;
  sizes.balance = spec.balance;
  checkLimits(sizes);
  layTiles(sizes);
  return sizes;
}

uint64_t mostRecvRows(const PlanSizes &sizes) {
  return uint64_t{sizes.ranks} * sizes.maxTokens * std::min(sizes.topk, sizes.maxLocal) +
         uint64_t{sizes.maxLocal} * (sizes.align - 1);
}

uint64_t planBufferBytes(const PlanSizes &sizes) {
  PlanBuffer unused;
  return layPlanBuffer(sizes, nullptr, unused);
}

}  // namespace fusco::cuda
