// Counters of keys by tiles of entries: [keys, tiles] in a plan buffer, and copies in the shared memory of
// blocks that work on some tiles.
#pragma once

#include "block_sums_device.cuh"
#include "entry_passes.hpp"
#include "plan_params.hpp"

namespace fusco::cuda {

using namespace planning;

// Counters that one warp advances: a column of a table, or a copy of it in shared memory, which is much
// closer.
class WarpCounters {
 public:
  // Counter `key` is at[key * stride].
  __device__ WarpCounters(uint32_t *at, uint32_t stride) : at_(at), stride_(stride) {}

  __device__ void clear(uint32_t keys) {
    for (uint32_t key = laneOf(); key < keys; key += warpSize_) at(key) = 0;
    __syncwarp();
  }

  // Called by the whole warp, with the keys of 32 consecutive entries: the position of each among those with
  // the same key. Lanes with noKey get any number.
  __device__ uint32_t next(uint32_t key) {
    const uint32_t same = __match_any_sync(wholeWarp, key);
    const uint32_t below = __popc(same & ((1u << laneOf()) - 1));
    const uint32_t first = key == noKey ? 0 : at(key);
    __syncwarp();
    if (key != noKey && below == 0) at(key) = first + __popc(same);
    __syncwarp();
    return first + below;
  }

 private:
  __device__ uint32_t &at(uint32_t key) const { return at_[uint64_t{key} * stride_]; }

  uint32_t *at_;
  uint32_t stride_;
};

// A table of counters in a plan buffer.
struct CounterTable {
  uint32_t *counts;  // [keys, tiles]
  uint32_t keys;
  uint32_t tiles;

  __device__ WarpCounters column(uint32_t tile) const { return {counts + tile, tiles}; }
};

// What kernels over tiles have in the dynamic shared memory of a block, in words from its start.
alignas(16) extern __shared__ uint32_t sharedWords[];

// Below what every kernel may have without asking.
constexpr uint32_t maxTileShared = 47 * 1024;
// Tiles of more entries are not staged.
constexpr uint32_t maxStagedEntries = 256;
// Bytes that are staged of an entry: its place, and a number.
constexpr uint32_t stagedBytes = sizeof(Place) + sizeof(uint16_t);

// Layout of that memory: staged entries of each warp, copies of the counters of targets of each warp, and of
// those of nodes: of rows and of entries. Parts that do not fit are left out: warps then work in the plan
// buffer.
struct TileShared {
  uint32_t warps = 0;
  uint32_t staged = 0;                     // entries of each warp: first their places, then their numbers
  uint32_t targetAt = 0, targetWords = 0;  // of each warp
  uint32_t nodeAt = 0, nodeWords = 0;      // of each warp and table
  uint32_t words = 0;                      // of all

  FUSCO_ON_BOTH TileShared(const PlanSizes &sizes, uint32_t blockWarps, bool hasTargets, bool hasNodes)
      : warps(blockWarps) {
    if (sizes.tileEntries <= maxStagedEntries) {
      staged = sizes.tileEntries;
      words = warps * staged * stagedBytes / sizeof(uint32_t);
    }
    if (hasTargets) take(targetAt, targetWords, sizes.targets, 1);
    if (hasNodes) take(nodeAt, nodeWords, sizes.nodes, 2);
  }

  FUSCO_ON_BOTH uint32_t bytes() const { return words * sizeof(uint32_t); }

 private:
  // The copies of two warps are at such a distance that threads which store the counters of neighbouring
  // tiles read from different banks.
  FUSCO_ON_BOTH void take(uint32_t &at, uint32_t &each, uint32_t keys, uint32_t tables) {
    const uint64_t wanted = (uint64_t{keys} + 31) / 32 * 32 + 4;
    const uint64_t end = words + wanted * tables * warps;
    if (end > maxTileShared / sizeof(uint32_t)) return;
    at = words;
    each = static_cast<uint32_t>(wanted);
    words = static_cast<uint32_t>(end);
  }
};

// Copies of a table's columns: one for each warp of the block, from tile `firstTile` on. All threads take
// part in load and store; without copies these do nothing.
class CounterCopies {
 public:
  // `at`: of the first warp; `each`: words of a warp, 0: no copies.
  __device__ CounterCopies(const CounterTable &table, uint32_t firstTile, uint32_t *at, uint32_t each)
      : table_(table), firstTile_(firstTile), at_(at), each_(each) {}

  // The counters of this warp.
  __device__ WarpCounters own() const {
    if (each_ == 0) return table_.column(firstTile_ + blockWarp());
    return {at_ + blockWarp() * each_, 1};
  }
  __device__ void load() const {
    // Several loads at a time, since stores do not let later loads pass.
    constexpr uint32_t atOnce = 8;
    for (uint32_t first = threadIdx.x; first < all(); first += atOnce * blockDim.x) {
      uint32_t count[atOnce];
#pragma unroll
      for (uint32_t i = 0; i < atOnce; i++) {
        const Pair pair = pairOf(first + i * blockDim.x);
        if (pair.isThere) count[i] = *pair.count;
      }
#pragma unroll
      for (uint32_t i = 0; i < atOnce; i++) {
        const Pair pair = pairOf(first + i * blockDim.x);
        if (pair.isThere) *pair.copy = count[i];
      }
    }
  }
  __device__ void store() const {
    for (uint32_t number = threadIdx.x; number < all(); number += blockDim.x) {
      const Pair pair = pairOf(number);
      if (pair.isThere) *pair.count = *pair.copy;
    }
  }

 private:
  // A counter and its copy.
  struct Pair {
    bool isThere;
    uint32_t *copy;
    uint32_t *count;
  };
  __device__ uint32_t all() const { return each_ == 0 ? 0 : blockWarps() * table_.keys; }
  // Neighbouring threads take neighbouring tiles.
  __device__ Pair pairOf(uint32_t number) const {
    const uint32_t warp = number % blockWarps();
    const uint32_t key = number / blockWarps();
    return {number < all() && firstTile_ + warp < table_.tiles, at_ + warp * each_ + key,
            table_.counts + uint64_t{key} * table_.tiles + firstTile_ + warp};
  }

  CounterTable table_;
  uint32_t firstTile_;
  uint32_t *at_;
  uint32_t each_;
};

// Counts that a lane scans at a time, as it loads and stores them: four with each access if they are aligned.
struct LaneCounts {
  static constexpr uint32_t count = 8;
  struct alignas(16) Four {
    uint32_t of[4];
  };
  Four four[count / 4];

  __device__ uint32_t &at(uint32_t i) { return four[i / 4].of[i % 4]; }

  __device__ void load(const uint32_t *counts, uint32_t tiles, uint32_t start, bool isAligned) {
    if (isAligned && start < tiles) {
      const auto *from = reinterpret_cast<const Four *>(counts + start);
#pragma unroll
      for (uint32_t i = 0; i < count / 4; i++) four[i] = from[i];
    } else {
#pragma unroll
      for (uint32_t i = 0; i < count; i++) at(i) = start + i < tiles ? counts[start + i] : 0;
    }
  }

  // Replaces each count by the sum of those before, and returns the sum of all.
  __device__ uint32_t scan() {
    uint32_t sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < count; i++) {
      const uint32_t own = at(i);
      at(i) = sum;
      sum += own;
    }
    return sum;
  }

  __device__ void add(uint32_t below) {
#pragma unroll
    for (uint32_t i = 0; i < count; i++) at(i) += below;
  }

  __device__ void store(uint32_t *counts, uint32_t tiles, uint32_t start, bool isAligned) {
    if (isAligned && start < tiles) {
      auto *to = reinterpret_cast<Four *>(counts + start);
#pragma unroll
      for (uint32_t i = 0; i < count / 4; i++) to[i] = four[i];
    } else {
#pragma unroll
      for (uint32_t i = 0; i < count; i++) {
        if (start + i < tiles) counts[start + i] = at(i);
      }
    }
  }
};

// Replaces counts [tiles], a row of a CounterTable, by the sums of those before, and returns their sum to all
// lanes. A lane loads several counts at a time, since each load is waited for.
__device__ inline uint32_t scanTileCounts(uint32_t *counts, uint32_t tiles) {
  // Rows that start at multiples of tilesOfBlock start at those of 16 bytes.
  static_assert(LaneCounts::count == tilesOfBlock, "a lane has counts of all its tiles or of none");
  const bool isAligned = tiles % tilesOfBlock == 0;
  uint32_t sum = 0;
  for (uint32_t first = 0; first < tiles; first += LaneCounts::count * warpSize_) {
    const uint32_t start = first + LaneCounts::count * laneOf();
    LaneCounts own;
    own.load(counts, tiles, start, isAligned);
    const Scan<uint32_t> scan = warpScan(own.scan());
    own.add(sum + scan.below);
    own.store(counts, tiles, start, isAligned);
    sum += scan.all;
  }
  return sum;
}

}  // namespace fusco::cuda
