// Planning on the device: the passes of native/planning by warps and blocks. Lists are stable counting sorts
// of entries: warps count the keys of tiles of entries, a scan over the tiles gives the first position of
// each (key, tile), and the warps count again, from there on, so that every entry gets its position.
//
// Each function is what one block of a kernel does. Between kernels all threads of the device are waited for.
#pragma once

#include "table_passes_device.cuh"
#include "tile_passes_device.cuh"

namespace fusco::cuda {

// Where the warp of a block keeps what it reads again of tile `number`; in the plan buffer: `places` and
// `numbers`, of all entries.
__device__ inline TileStage stageOf(const TileShared &layout, const Tile &tile, Place *places,
                                    uint16_t *numbers) {
  if (layout.staged == 0) return {places + tile.first, numbers + tile.first, false};
  Place *const staged = reinterpret_cast<Place *>(sharedWords);
  uint16_t *const stagedNumbers = reinterpret_cast<uint16_t *>(staged + layout.warps * layout.staged);
  return {staged + blockWarp() * layout.staged, stagedNumbers + blockWarp() * layout.staged, true};
}

__device__ inline CounterCopies targetCopies(const TileShared &layout, const PlanSizes &sizes,
                                             const PlanBuffer &buffer, uint32_t firstTile) {
  return {targetTable(sizes, buffer), firstTile, sharedWords + layout.targetAt, layout.targetWords};
}

// Copies of the counters of nodes.
struct NodeCopies {
  CounterCopies rows;
  CounterCopies entries;

  __device__ NodeCopies(const TileShared &layout, const PlanSizes &sizes, const PlanBuffer &buffer,
                        uint32_t firstTile)
      : rows(nodeRowTable(sizes, buffer), firstTile, sharedWords + layout.nodeAt, layout.nodeWords),
        entries(nodeEntryTable(sizes, buffer), firstTile,
                sharedWords + layout.nodeAt + layout.warps * layout.nodeWords, layout.nodeWords) {}

  __device__ NodeCounters own() const { return {rows.own(), entries.own()}; }
};

// Targets of the entries of consecutive tiles, a warp for each.
__device__ inline void routeBlock(const PlanParams &params, uint32_t local, uint32_t firstTile) {
  const PlanSizes &sizes = params.sizes;
  const PlanBuffer buffer = bufferOf(params, params.rankOf[local]);
  const TileShared layout(sizes, blockWarps(), true, false);
  const CounterCopies counters = targetCopies(layout, sizes, buffer, firstTile);
  const Tile tile(params, local, firstTile + blockWarp());
  if (tile.number < sizes.tiles) {
    routeTile(params, buffer, local, tile, stageOf(layout, tile, buffer.place, buffer.instance),
              counters.own());
  }
  __syncthreads();
  counters.store();
}

// Counts of consecutive targets, a warp for each.
__device__ inline void scanBlock(const PlanParams &params, uint32_t local, uint32_t firstKey) {
  const uint32_t rank = params.rankOf[local];
  const uint32_t key = firstKey + blockWarp();
  if (key >= params.sizes.targets) return;
  scanTarget(params, bufferOf(params, rank), local, key, GlobalPeers(params, rank));
}

// Tables of one rank.
__device__ inline void layBlock(const PlanParams &params, uint32_t local, BlockWords &shared) {
  const bool isShared = stagedTableBytes(params.sizes) > 0;
  layTables(params, bufferOf(params, params.rankOf[local]), local, isShared ? sharedWords : nullptr, shared);
}

// Slots of the entries of consecutive tiles, a warp for each.
__device__ inline void placeBlock(const PlanParams &params, uint32_t local, uint32_t firstTile) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const PlanBuffer buffer = bufferOf(params, rank);
  const TileShared layout(sizes, blockWarps(), true, sizes.isFlat == 0);
  const CounterCopies counters = targetCopies(layout, sizes, buffer, firstTile);
  const NodeCopies nodes(layout, sizes, buffer, firstTile);
  const Tile tile(params, local, firstTile + blockWarp());
  counters.load();
  __syncthreads();
  if (tile.number < sizes.tiles) {
    placeTile(params, buffer, local, tile, stageOf(layout, tile, buffer.place, buffer.toNode), counters.own(),
              nodes.own(), GlobalPeers(params, rank));
  }
  if (sizes.isFlat != 0) return;
  __syncthreads();
  nodes.rows.store();
  nodes.entries.store();
}

// Whether this block is the last of those of the local ranks that calls this. What the others have stored
// before is then seen.
__device__ inline bool isLastToTell(const PlanParams &params, BlockWords &shared) {
  if (params.localRanks == 1) {
    __syncthreads();
    return true;
  }
  uint32_t *told = &bufferOf(params, params.rankOf[0]).state->told;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    shared.words[0] = atomicAdd(told, 1u);
    __threadfence();
  }
  __syncthreads();
  return shared.words[0] == params.localRanks - 1;
}

// Rail groups and landing rows of all local ranks.
__device__ inline void layForwardBlock(const PlanParams &params) {
  layForward(params, *reinterpret_cast<ForwardShared *>(sharedWords), 0, params.localRanks,
             [&](uint32_t local) { return bufferOf(params, params.rankOf[local]); });
}

// Forwarding and distribution lists of the entries of consecutive tiles, a warp for each.
__device__ inline void forwardBlock(const PlanParams &params, uint32_t local, uint32_t firstTile) {
  const PlanSizes &sizes = params.sizes;
  const PlanBuffer buffer = bufferOf(params, params.rankOf[local]);
  const TileShared layout(sizes, blockWarps(), false, true);
  const NodeCopies nodes(layout, sizes, buffer, firstTile);
  const Tile tile(params, local, firstTile + blockWarp());
  nodes.rows.load();
  nodes.entries.load();
  __syncthreads();
  if (tile.number >= sizes.tiles) return;
  forwardTile(params, buffer, tile, stageOf(layout, tile, buffer.place, buffer.toNode), nodes.own());
}

// What other processes have told of their tokens: a part of it, number `part` of `parts`.
__device__ inline void takeBlock(const PlanParams &params, uint32_t from, uint32_t part, uint32_t parts) {
  const uint32_t rank = params.rankOf[0];
  takeArrival(params, bufferOf(params, rank), rank, from, part * uint64_t{blockDim.x} + threadIdx.x,
              parts * uint64_t{blockDim.x});
}

}  // namespace fusco::cuda
