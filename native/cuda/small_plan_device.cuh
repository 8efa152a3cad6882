// The whole plan of one rank by one block, with its tables in shared memory: the passes read again what
// others have written, and every read of global memory would be waited for.
#pragma once

#include "small_plan.hpp"
#include "table_passes_device.cuh"
#include "tile_passes_device.cuh"

namespace fusco::cuda {

// Scans the counts of one target by one thread, and gives the rank's count to all ranks.
template <class Peers>
__device__ inline void scanTargetAlone(const PlanParams &params, const PlanBuffer &buffer, uint32_t local,
                                       uint32_t key, const Peers &peers) {
  const PlanSizes &sizes = params.sizes;
  uint32_t *counts = buffer.tileCounts + key * sizes.tiles;
  uint32_t sum = 0;
  // Several loads at a time, since stores do not let later loads pass.
  for (uint32_t tile = 0; tile < sizes.tiles; tile += LaneCounts::count) {
    LaneCounts own;
    own.load(counts, sizes.tiles, tile, false);
    const uint32_t all = own.scan();
    own.add(sum);
    own.store(counts, sizes.tiles, tile, false);
    sum += all;
  }
  for (uint32_t peer = 0; peer < sizes.ranks; peer++) {
    const Facts facts = peers.factsOf(peer);
    facts.counts[key] = sum;
    if (key == 0) *facts.tokens = params.ids[local].tokens;
  }
}

struct alignas(16) CopiedUnit {
  uint64_t words[2];
};

// Copies the finished tables to the plan buffer. By a block.
__device__ inline void copyPlan(const PlanParams &params, const uint8_t *from, uint8_t *to) {
  const uint64_t units = copiedPlanBytes(params.offsets) / sizeof(CopiedUnit);
  const auto *fromUnits = reinterpret_cast<const CopiedUnit *>(from);
  auto *toUnits = reinterpret_cast<CopiedUnit *>(to);
#pragma unroll 4
  for (uint64_t unit = threadIdx.x; unit < units; unit += blockDim.x) toUnits[unit] = fromUnits[unit];
}

// Where rank `from` tells its facts if the blocks of all ranks run at the same time and reach the shared
// memory of one another: block number r is that of rank r. `map(pointer, r)`: the address in block r of what
// is at `pointer` in this block.
template <class Map>
class SharedPeers {
 public:
  __device__ SharedPeers(const PlanParams &params, uint32_t from, Map map)
      : params_(params), from_(from), map_(map) {}

  // Of other devices' tables there are none.
  __device__ Facts factsOf(uint32_t to) const {
    const PlanBuffer buffer = tablesAt(params_.offsets, reinterpret_cast<uint8_t *>(sharedWords));
    const Facts here = factsIn(params_, buffer, to, from_);
    return {map_(here.counts, to), map_(here.tokens, to), map_(here.nodeRows, to), nullptr, nullptr};
  }

 private:
  const PlanParams &params_;
  uint32_t from_;
  Map map_;
};

// Plans local rank `local`. `edge` waits for the blocks of all other ranks.
template <class Edge, class Peers>
__device__ inline void planSmallBlock(const PlanParams &params, uint32_t local, const Edge &edge,
                                      const Peers &peers, BlockWords &shared) {
  const PlanSizes &sizes = params.sizes;
  const bool isFlat = sizes.isFlat != 0;
  uint8_t *const memory = reinterpret_cast<uint8_t *>(sharedWords);
  uint8_t *const planBuffer = params.buffers[params.rankOf[local]];
  const PlanBuffer buffer = tablesAt(params.offsets, memory);
  const auto forEachTile = [&](auto pass) {
    for (uint32_t number = blockWarp(); number < sizes.tiles; number += blockWarps()) {
      pass(Tile(params, local, number));
    }
  };
  const auto stageOf = [&](const Tile &tile, uint16_t *numbers) {
    return TileStage{buffer.place + tile.first, numbers + tile.first, false};
  };
  const auto nodesOf = [&](const Tile &tile) {
    return NodeCounters{nodeRowTable(sizes, buffer).column(tile.number),
                        nodeEntryTable(sizes, buffer).column(tile.number)};
  };

  forEachTile([&](const Tile &tile) {
    routeTile(params, buffer, local, tile, stageOf(tile, buffer.instance),
              targetTable(sizes, buffer).column(tile.number));
  });
  __syncthreads();
  // Blocks that have not started have no shared memory.
  edge.wait();
  for (uint32_t key = threadIdx.x; key < sizes.targets; key += blockDim.x) {
    scanTargetAlone(params, buffer, local, key, peers);
  }
  __syncthreads();
  edge.wait();
  layTables(params, buffer, local, nullptr, shared);
  __syncthreads();
  forEachTile([&](const Tile &tile) {
    placeTile(params, buffer, local, tile, stageOf(tile, buffer.toNode),
              targetTable(sizes, buffer).column(tile.number), nodesOf(tile), peers);
  });
  __syncthreads();
  if (!isFlat) scanNodes(sizes, buffer, peers);
  __syncthreads();
  // No block ends, or changes its tables further, while others store facts there.
  edge.wait();
  if (!isFlat) {
    auto &forward = *reinterpret_cast<ForwardShared *>(memory + sharedPlanTables(params.offsets));
    layForward(params, forward, local, local + 1, [&](uint32_t) { return buffer; });
    __syncthreads();
    forEachTile([&](const Tile &tile) {
      forwardTile(params, buffer, tile, stageOf(tile, buffer.toNode), nodesOf(tile));
    });
  }
  __syncthreads();
  copyPlan(params, memory, planBuffer);
}

}  // namespace fusco::cuda
