// Passes over the tiles of a rank's entries: by one warp each.
#pragma once

#include "ids.hpp"
#include "plan_facts_device.cuh"
#include "tile_counters_device.cuh"

namespace fusco::cuda {

// A tile of a rank's entries. It has whole tokens.
struct Tile {
  uint32_t number;
  uint32_t first;
  uint32_t end;

  __device__ Tile(const PlanParams &params, uint32_t local, uint32_t tile) : number(tile) {
    const uint32_t entries = params.ids[local].tokens * params.sizes.topk;
    const uint64_t start = uint64_t{number} * params.sizes.tileEntries;
    first = start < entries ? static_cast<uint32_t>(start) : entries;
    end = entries - first < params.sizes.tileEntries ? entries : first + params.sizes.tileEntries;
  }
};

// Where a warp keeps what it reads again of its tile's entries: [entries of a tile], in shared memory or in
// the plan buffer.
struct TileStage {
  Place *places;
  uint16_t *numbers;
  bool isShared;
};

__device__ inline uint32_t lesserOf(uint32_t a, uint32_t b) { return a < b ? a : b; }

__device__ inline CounterTable targetTable(const PlanSizes &sizes, const PlanBuffer &buffer) {
  return {buffer.tileCounts, sizes.targets, sizes.tiles};
}
__device__ inline CounterTable nodeRowTable(const PlanSizes &sizes, const PlanBuffer &buffer) {
  return {buffer.tileRows, sizes.nodes, sizes.tiles};
}
__device__ inline CounterTable nodeEntryTable(const PlanSizes &sizes, const PlanBuffer &buffer) {
  return {buffer.tileEntries, sizes.nodes, sizes.tiles};
}

// Writes the targets of a tile's entries and counts them; bad ids are masked, and the first is remembered.
// `stage`: its numbers hold the targets.
__device__ inline void routeTile(const PlanParams &params, const PlanBuffer &buffer, uint32_t local,
                                 const Tile &tile, const TileStage &stage, WarpCounters counters) {
  const PlanSizes &sizes = params.sizes;
  const RankIds &ids = params.ids[local];
  const uint64_t experts = uint64_t{local} * sizes.experts;
  const bool isSingle = params.candidateFirst == nullptr;
  const Routing routing{sizes.experts,
                        sizes.topk,
                        static_cast<uint16_t>(sizes.targets),
                        {isSingle ? nullptr : params.candidateFirst + experts,
                         isSingle ? nullptr : params.candidateCount + experts,
                         params.targets + uint64_t{local} * params.targetStride}};
  uint64_t bad = UINT64_MAX;
  // Apart from the counting, in which lanes wait for one another, so that loads of several entries overlap.
  withIds(ids.dtype, ids.data, [&](const auto *data) {
#pragma unroll 2
    for (uint32_t entry = tile.first + laneOf(); entry < tile.end; entry += warpSize_) {
      const uint32_t token = entry / sizes.topk;
      const uint32_t k = entry % sizes.topk;
      const Routed routed = routeEntry(routing, data + uint64_t{token} * sizes.topk, token, k);
      buffer.instance[entry] = routed.target;
      if (stage.isShared) stage.numbers[entry - tile.first] = routed.target;
      const uint64_t code = uint64_t{entry} << 2 | static_cast<uint32_t>(routed.bad);
      if (routed.bad != BadId::none && code < bad) bad = code;
    }
  });
  counters.clear(sizes.targets);
  for (uint32_t first = tile.first; first < tile.end; first += warpSize_) {
    const uint32_t entry = first + laneOf();
    const uint32_t target = entry < tile.end ? stage.numbers[entry - tile.first] : sizes.targets;
    counters.next(target == sizes.targets ? noKey : target);
  }
  bad = warpLeast(bad);
  if (laneOf() == 0) buffer.tileBad[tile.number] = bad;
}

// Tells other ranks where the rows of a tile's entries go.
template <class Peers>
__device__ inline void tellTile(const PlanParams &params, const PlanBuffer &buffer, uint32_t rank,
                                const Tile &tile, const TileStage &stage, const Peers &peers) {
  const PlanSizes &sizes = params.sizes;
  for (uint32_t entry = tile.first + laneOf(); entry < tile.end; entry += warpSize_) {
    const uint32_t token = entry / sizes.topk;
    const uint32_t k = entry - token * sizes.topk;
    const uint32_t first = entry - k;
    tellEntry(sizes, params.deviceRanks[rank], {stage.places + (first - tile.first), sizes.topk}, token, k,
              buffer.send + first, buffer.terms + first, [&](uint32_t here) {
                const Facts facts = peers.factsOf(here);
                return ArrivalTables{facts.arrival, facts.arrivalRow};
              });
  }
}

// What placeTile reads of an instance.
struct PlacedInstance {
  EntryRun run;
  uint32_t rank;
  uint32_t node;  // 0 in flat plans
};

// Counters of forwarded rows and of distributed entries, by node.
struct NodeCounters {
  WarpCounters rows;
  WarpCounters entries;
};

// Calls `use(entry, token, k, node, row, position)` with each entry of a tile whose row is forwarded; `row`
// is noKey for an entry that leads none. `nodes`: toNode of the tile's entries. The whole warp takes part.
template <class Use>
__device__ inline void forEachForwarded(const PlanSizes &sizes, const Tile &tile, const uint16_t *nodes,
                                        NodeCounters &counters, Use use) {
  for (uint32_t first = tile.first; first < tile.end; first += warpSize_) {
    const uint32_t entry = first + laneOf();
    const uint32_t token = entry / sizes.topk;
    const uint32_t k = entry - token * sizes.topk;
    const uint32_t toNode = entry < tile.end ? nodes[entry - tile.first] : noNode;
    const uint32_t node = toNode == noNode ? noKey : toNode;
    const bool leads = node != noKey && leadsRow(nodes + (entry - k - tile.first), k);
    const uint32_t position = counters.entries.next(node);
    const uint32_t row = counters.rows.next(leads ? node : noKey);
    if (node != noKey) use(entry, token, k, node, leads ? row : noKey, position);
  }
}

// Slots, places and the send order of a tile's entries, and what other ranks must know of them; in
// hierarchical plans it counts forwarded rows and distributed entries as well. `stage`: its places and
// numbers hold place and toNode.
template <class Peers>
__device__ inline void placeTile(const PlanParams &params, const PlanBuffer &buffer, uint32_t local,
                                 const Tile &tile, const TileStage &stage, WarpCounters counters,
                                 NodeCounters nodes, const Peers &peers) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const bool isFlat = sizes.isFlat != 0;
  const uint32_t localNode = rank / sizes.ranksPerNode;
  const uint32_t firstRank = isFlat ? 0 : localNode * sizes.ranksPerNode;
  const uint32_t endRank = isFlat ? sizes.ranks : firstRank + sizes.ranksPerNode;
  const EntryTables tables{sizes.instances,
                           params.placement.rankFirst[firstRank],
                           params.placement.rankFirst[endRank],
                           buffer.runRow,
                           buffer.runRows,
                           buffer.position,
                           buffer.instance,
                           buffer.slot,
                           buffer.sendEntry};
  const uint32_t *quotas = buffer.quotas + uint64_t{rank} * sizes.instances;
  const auto targetOf = [&](uint32_t entry) {
    return entry < tile.end ? buffer.instance[entry] : sizes.targets;
  };
  const auto placedAt = [&](uint32_t instance) {
    return PlacedInstance{entryRun(tables, instance), params.placement.instanceRank[instance],
                          isFlat ? 0u : params.placement.instanceNode[instance]};
  };
  uint32_t target = targetOf(tile.first + laneOf());
  for (uint32_t first = tile.first; first < tile.end; first += warpSize_) {
    const uint32_t entry = first + laneOf();
    const bool isMasked = target == sizes.targets;
    uint32_t instance = isMasked ? sizes.instances : target;
    // Loaded early: below, lanes wait for one another, and stores do not let later loads pass.
    PlacedInstance placed{};
    if (!sizes.hasQuotas() && !isMasked) placed = placedAt(instance);
    target = targetOf(entry + warpSize_);
    uint32_t position = counters.next(isMasked ? noKey : instance);
    if (entry >= tile.end) continue;
    if (sizes.hasQuotas()) {
      if (!isMasked) {
        const uint16_t *hosts = params.placement.hosts + params.placement.hostFirst[instance];
        const QuotaChoice choice = instanceByQuota(quotas, hosts, position);
        instance = choice.instance;
        position = choice.position;
        placed = placedAt(instance);
      }
      buffer.instance[entry] = static_cast<uint16_t>(instance);
    }
    int32_t slot = FUSCO_SLOT_MASKED;
    Place place{0, slot};
    uint16_t toNode = noNode;
    if (isMasked) {
      markMasked(tables, entry);
    } else {
      slot = placeEntry(tables, entry, placed.run, position);
      const bool isClipped = slot >= 0 && static_cast<uint32_t>(slot) >= sizes.maxRecvRows;
      place = {placed.rank, isClipped ? FUSCO_SLOT_DROPPED : slot};
      toNode = forwardNode(slot, placed.node, localNode);
    }
    buffer.place[entry] = place;
    if (stage.isShared) stage.places[entry - tile.first] = place;
    if (isFlat) continue;
    buffer.toNode[entry] = toNode;
    if (stage.isShared) stage.numbers[entry - tile.first] = toNode;
  }
  __syncwarp();
  if (params.hasOthers != 0) tellTile(params, buffer, rank, tile, stage, peers);
  if (isFlat) return;
  nodes.rows.clear(sizes.nodes);
  nodes.entries.clear(sizes.nodes);
  forEachForwarded(sizes, tile, stage.numbers, nodes,
                   [](uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t) {});
}

// Forwarding and distribution lists of a tile's entries. `stage`, in shared memory: its places get the rank
// and the slot of each entry, its numbers toNode.
__device__ inline void forwardTile(const PlanParams &params, const PlanBuffer &buffer, const Tile &tile,
                                   const TileStage &stage, NodeCounters counters) {
  const PlanSizes &sizes = params.sizes;
  const ForwardLists lists{sizes.topk,      buffer.forwarder,  buffer.landingRow,
                           buffer.firstRow, buffer.firstEntry, buffer.token,
                           buffer.target,   buffer.offset,     buffer.distributed};
  // Clipped places are no slots.
  const auto slottedPlace = [&](uint32_t entry) {
    return Place{buffer.place[entry].peer, buffer.slot[entry]};
  };
  if (stage.isShared) {
#pragma unroll 2
    for (uint32_t entry = tile.first + laneOf(); entry < tile.end; entry += warpSize_) {
      stage.places[entry - tile.first] = slottedPlace(entry);
      stage.numbers[entry - tile.first] = buffer.toNode[entry];
    }
    __syncwarp();
  }
  uint32_t staged = 0;
  forEachForwarded(
      sizes, tile, stage.numbers, counters,
      [&](uint32_t entry, uint32_t token, uint32_t k, uint32_t node, uint32_t row, uint32_t position) {
        distributeEntry(lists, entry, node, position);
        if (row == noKey) return;
        const auto placeOf = [&](uint32_t other) {
          const uint32_t of = entry - k + other;
          return stage.isShared ? stage.places[of - tile.first] : slottedPlace(of);
        };
        staged += forwardRow(lists, placeOf, token, k, node, row, position) ? 1 : 0;
      });
  staged = warpSum(staged);
  if (laneOf() == 0 && staged > 0) atomicAdd(&buffer.state->staged, staged);
}

// Copies words by the threads of a crew, number `thread` of `threads`. Each loads several words at a time,
// since stores do not let later loads pass.
__device__ inline void copyWords(uint32_t *to, const uint32_t *from, uint64_t count, uint64_t thread,
                                 uint64_t threads) {
  constexpr uint32_t atOnce = 4;
  for (uint64_t first = thread; first < count; first += atOnce * threads) {
    uint32_t word[atOnce];
#pragma unroll
    for (uint32_t i = 0; i < atOnce; i++)
      word[i] = first + i * threads < count ? from[first + i * threads] : 0;
#pragma unroll
    for (uint32_t i = 0; i < atOnce; i++) {
      if (first + i * threads < count) to[first + i * threads] = word[i];
    }
  }
}

// Copies what rank `from`, another process, has told of its tokens. By the threads of a crew, number `thread`
// of `threads`. `buffer`: that of `rank`.
__device__ inline void takeArrival(const PlanParams &params, const PlanBuffer &buffer, uint32_t rank,
                                   uint32_t from, uint64_t thread, uint64_t threads) {
  const PlanSizes &sizes = params.sizes;
  if (from == rank) return;
  const Facts facts = factsAt(params, rank, from);
  const uint64_t start = arrivalStart(sizes, params.deviceRanks[rank], from);
  const uint32_t tokens = lesserOf(buffer.tokens[from], sizes.maxTokens);
  copyWords(buffer.arrival + start * sizes.topk, facts.arrival, uint64_t{tokens} * sizes.topk, thread,
            threads);
  copyWords(buffer.arrivalRow + start, facts.arrivalRow, tokens, thread, threads);
}

}  // namespace fusco::cuda
