// Passes over targets, instances, ranks and nodes: from the facts to the rows of blocks and runs, and to
// landing rows.
#pragma once

#include "ids.hpp"
#include "landing_passes.hpp"
#include "plan_facts_device.cuh"
#include "run_passes.hpp"
#include "small_plan.hpp"
#include "tile_passes_device.cuh"

namespace fusco::cuda {

// Scans the counts of one target, and gives the rank's count to all ranks; with the first target, the number
// of its tokens as well. By a warp.
template <class Peers>
__device__ inline void scanTarget(const PlanParams &params, const PlanBuffer &buffer, uint32_t local,
                                  uint32_t key, const Peers &peers) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t sum = scanTileCounts(buffer.tileCounts + uint64_t{key} * sizes.tiles, sizes.tiles);
  for (uint32_t peer = laneOf(); peer < sizes.ranks; peer += warpSize_) {
    const Facts facts = peers.factsOf(peer);
    facts.counts[key] = sum;
    if (key == 0) *facts.tokens = params.ids[local].tokens;
  }
}

// What a block reads again and again of its rank's tables, in shared memory or in the plan buffer.
struct StagedTables {
  uint32_t *counts;    // [ranks, targets]
  uint32_t *totals;    // [instances]
  uint32_t *before;    // [instances]
  uint32_t *blockRow;  // [instances]
  uint32_t *first;     // [instances], first rows as if all ranks shared one buffer
  bool isShared;
};

// Bytes of these tables in shared memory; 0 if they do not fit.
FUSCO_ON_BOTH inline uint32_t stagedTableBytes(const PlanSizes &sizes) {
  const uint64_t words = uint64_t{sizes.ranks} * sizes.targets + 4 * uint64_t{sizes.instances};
  const uint64_t bytes = words * sizeof(uint32_t);
  return bytes <= maxTileShared ? static_cast<uint32_t>(bytes) : 0;
}

// `at`: shared memory, or null.
__device__ inline StagedTables stagedTables(const PlanSizes &sizes, const PlanBuffer &buffer, uint32_t *at) {
  // First rows of runs are written when those of blocks have been read.
  if (at == nullptr) {
    return {buffer.counts, buffer.totals, buffer.before, buffer.blockRow, buffer.runRow, false};
  }
  uint32_t *totals = at + sizes.ranks * sizes.targets;
  uint32_t *before = totals + sizes.instances;
  uint32_t *blockRow = before + sizes.instances;
  return {at, totals, before, blockRow, blockRow + sizes.instances, true};
}

// Takes the facts: those of other processes into the plan buffer, the counts into `tables`. By a block.
__device__ inline void takeCounts(const PlanParams &params, const PlanBuffer &buffer, uint32_t rank,
                                  const StagedTables &tables) {
  const PlanSizes &sizes = params.sizes;
  const bool isTold = hasInbox(params, rank);
  if (isTold) {
    for (uint32_t from = threadIdx.x; from < sizes.ranks; from += blockDim.x) {
      buffer.tokens[from] = *factsAt(params, rank, from).tokens;
    }
  }
  if (isTold || tables.isShared) {
    const uint32_t all = sizes.ranks * sizes.targets;
    // Several loads at a time, since stores do not let later loads pass.
    constexpr uint32_t atOnce = 8;
    for (uint32_t first = threadIdx.x; first < all; first += atOnce * blockDim.x) {
      uint32_t count[atOnce];
#pragma unroll
      for (uint32_t i = 0; i < atOnce; i++) {
        const uint32_t at = first + i * blockDim.x;
        if (at >= all) continue;
        const uint32_t from = at / sizes.targets;
        const uint32_t *told =
            isTold ? factsAt(params, rank, from).counts : buffer.counts + from * sizes.targets;
        count[i] = told[at - from * sizes.targets];
      }
#pragma unroll
      for (uint32_t i = 0; i < atOnce; i++) {
        const uint32_t at = first + i * blockDim.x;
        if (at >= all) continue;
        if (isTold) buffer.counts[at] = count[i];
        if (tables.isShared) tables.counts[at] = count[i];
      }
    }
  }
  __syncthreads();
}

__device__ inline GroupTables groupOf(const PlanParams &params, const PlanBuffer &buffer,
                                      const StagedTables &tables) {
  const PlanSizes &sizes = params.sizes;
  const bool hasQuotas = sizes.hasQuotas();
  return {sizes.ranks,
          sizes.instances,
          sizes.capacity,
          sizes.align,
          params.placement.rankFirst,
          hasQuotas ? buffer.quotas : tables.counts,
          hasQuotas ? sizes.instances : sizes.targets,
          tables.totals,
          tables.blockRow};
}

// What the first bad id of a rank is, how many entries are masked, and the rows of its receive buffer.
__device__ inline void fillState(const PlanParams &params, const PlanBuffer &buffer, uint32_t local,
                                 uint64_t bad, uint32_t entriesWithTarget, uint32_t recvRows,
                                 uint32_t overflowRows) {
  const PlanSizes &sizes = params.sizes;
  const RankIds &ids = params.ids[local];
  PlanState &state = *buffer.state;
  state.badEntry = bad;
  state.badValue = 0;
  state.tokens = ids.tokens;
  state.masked = ids.tokens * sizes.topk - entriesWithTarget;
  state.recvRows = recvRows;
  state.overflowRows = overflowRows;
  state.stageRows = 0;
  state.staged = 0;
  state.rule = FUSCO_BALANCE_BEST;
  state.idDtype = ids.dtype;
  state.barrier[0] = state.barrier[1] = 0;
  state.told = 0;
  if (bad == UINT64_MAX) return;
  withIds(ids.dtype, ids.data,
          [&](const auto *data) { state.badValue = static_cast<uint64_t>(data[bad >> 2]); });
}

// layBlocks of all ranks, and the rank's own runs. By a block of threads. Returns the rows of the receive
// buffer of `rank`.
__device__ inline uint32_t layBlocksTogether(const PlanParams &params, const PlanBuffer &buffer,
                                             const GroupTables &group, const StagedTables &tables,
                                             uint32_t rank, BlockWords &shared) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t *rankFirst = params.placement.rankFirst;
  const uint32_t firstRank = sizes.isFlat != 0 ? 0 : rank - rank % sizes.ranksPerNode;
  const uint32_t endRank = sizes.isFlat != 0 ? sizes.ranks : firstRank + sizes.ranksPerNode;
  const uint32_t directFirst = rankFirst[firstRank];
  const uint32_t directEnd = rankFirst[endRank];
  // First rows may wrap.
  uint32_t *first = tables.first;
  uint32_t row = 0;
  uint32_t position = 0;
  for (uint32_t start = 0; start < group.instances; start += blockDim.x) {
    const uint32_t i = start + threadIdx.x;
    uint32_t rows = 0;
    uint32_t direct = 0;
    if (i < group.instances) {
      // Loaded early: until first rows are known, a block has the first instance of its rank.
      group.blockRow[i] = rankFirst[params.placement.instanceRank[i]];
      const BlockCounts sums = sumCounts(group, rank, i);
      tables.before[i] = sums.before;
      group.totals[i] = sums.total;
      rows = static_cast<uint32_t>(paddedRows(group, i));
      if (i >= directFirst && i < directEnd) {
        direct = keptRows(sums.before, countOf(group, rank, i), group.capacity);
      }
    }
    // Both at a time; direct rows, which are entries of the rank, do not wrap.
    const Scan<uint64_t> scan = blockScan(uint64_t{rows} << 32 | direct, shared);
    if (i < group.instances) {
      first[i] = row + static_cast<uint32_t>(scan.below >> 32);
      buffer.position[i] = position + static_cast<uint32_t>(scan.below);
    }
    row += static_cast<uint32_t>(scan.all >> 32);
    position += static_cast<uint32_t>(scan.all);
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < group.instances; i += blockDim.x) {
    group.blockRow[i] = first[i] - first[group.blockRow[i]];
  }
  const auto firstOf = [&](uint32_t of) {
    return rankFirst[of] < group.instances ? first[rankFirst[of]] : row;
  };
  const uint32_t recvRows = firstOf(rank + 1) - firstOf(rank);
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < group.instances; i += blockDim.x) {
    const RowRange run = runOf(group, rank, i, tables.before[i]);
    buffer.runRow[i] = run.first;
    buffer.runRows[i] = run.rows;
  }
  return recvRows;
}

// What a thread finds of the receive side.
struct Received {
  uint32_t paddings;  // ranges of padding of the rank
  uint32_t overflow;  // rows of the thread's instances at or beyond maxRecvRows
};

// The receive side of a rank: its experts' blocks and runs, also clipped to maxRecvRows, and the padding. By
// a block.
__device__ inline Received fillReceive(const PlanParams &params, const PlanBuffer &buffer,
                                       const GroupTables &group, uint32_t rank, uint32_t recvRows,
                                       BlockWords &shared) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t first = params.placement.rankFirst[rank];
  const uint32_t localInstances = params.placement.rankFirst[rank + 1] - first;
  const uint32_t limit = sizes.maxRecvRows;
  uint32_t overflow = 0;
  uint32_t paddings = 0;
  for (uint32_t start = 0; start < localInstances; start += blockDim.x) {
    const uint32_t j = start + threadIdx.x;
    RowRange padding{0, 0};
    if (j < localInstances) {
      const uint32_t row = group.blockRow[first + j];
      const uint32_t end = j + 1 < localInstances ? group.blockRow[first + j + 1] : recvRows;
      const uint32_t rows = keptRows(0, group.totals[first + j], sizes.capacity);
      const uint32_t clipped = row >= limit ? 0 : lesserOf(rows, limit - row);
      buffer.expertOffset[j] = row;
      buffer.expertRows[j] = rows;
      buffer.clippedOffset[j] = lesserOf(row, limit);
      buffer.clippedRows[j] = clipped;
      overflow += rows - clipped;
      padding = paddingOf(row, rows, end, limit);
    }
    const Scan<uint32_t> scan = blockScan(padding.rows > 0 ? 1u : 0u, shared);
    if (padding.rows > 0) buffer.paddings[paddings + scan.below] = {rank, padding.first, padding.rows};
    paddings += scan.all;
  }
  for (uint32_t at = threadIdx.x; at < localInstances * sizes.ranks; at += blockDim.x) {
    const uint32_t source = at % sizes.ranks;
    const uint32_t instance = first + at / sizes.ranks;
    const RowRange run = runOf(group, source, instance, sumCounts(group, source, instance).before);
    buffer.recvRow[at] = run.first;
    buffer.recvRows[at] = run.rows;
  }
  if (threadIdx.x == 0) {
    buffer.expertOffset[localInstances] = recvRows;
    buffer.clippedOffset[localInstances] = lesserOf(recvRows, limit);
  }
  return {paddings, overflow};
}

// The heads that exchanges read. By a warp.
__device__ inline void fillHeads(const PlanParams &params, const PlanBuffer &buffer, uint32_t rank,
                                 uint32_t tokens, uint32_t paddings) {
  const PlanSizes &sizes = params.sizes;
  if (laneOf() == 0) {
    layDeviceRank(*buffer.head, 0, rank, 0);
    layDeviceHead(*buffer.head, sizes, 1, tokens, paddings);
  }
  const RankBits local = params.deviceRanks[rank];
  // Several ranks of a device get tables of their own for each exchange.
  if (params.hasOthers == 0 || local.count() > 1) return;
  uint32_t most = 0;
  for (uint32_t of = laneOf(); of < sizes.ranks; of += warpSize_) {
    const uint32_t told = buffer.tokens[of];
    layOnePassRank(*buffer.onePass, sizes, local, of, 0, told);
    if (told > most) most = told;
  }
  most = warpMost(most);
  if (laneOf() == 0) layOnePassSizes(*buffer.onePass, sizes, local, most);
}

// From the facts to the rows of blocks and runs. By a block; `at`: stagedTableBytes of shared memory, or
// null.
__device__ inline void layTables(const PlanParams &params, const PlanBuffer &buffer, uint32_t local,
                                 uint32_t *at, BlockWords &shared) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const StagedTables tables = stagedTables(sizes, buffer, at);
  uint64_t bad = UINT64_MAX;
  for (uint32_t tile = threadIdx.x; tile < sizes.tiles; tile += blockDim.x) {
    if (buffer.tileBad[tile] < bad) bad = buffer.tileBad[tile];
  }
  takeCounts(params, buffer, rank, tables);
  if (sizes.hasQuotas()) {
    if (threadIdx.x == 0) computeQuotas(quotaTables(sizes, params.placement, buffer));
    __syncthreads();
  }
  const GroupTables group = groupOf(params, buffer, tables);
  const uint32_t recvRows = layBlocksTogether(params, buffer, group, tables, rank, shared);
  const Received received = fillReceive(params, buffer, group, rank, recvRows, shared);
  uint32_t count = 0;
  for (uint32_t key = threadIdx.x; key < sizes.targets; key += blockDim.x) {
    count += tables.counts[uint64_t{rank} * sizes.targets + key];
  }
  const BlockTotals totals = blockTotals({count, received.overflow, bad}, shared);
  if (threadIdx.x == 0) fillState(params, buffer, local, totals.least, totals.first, recvRows, totals.second);
  // The first warp is busy.
  if (blockWarp() != blockWarps() - 1) return;
  fillHeads(params, buffer, rank, params.ids[local].tokens, received.paddings);
}

// Scans the counts of all nodes, and gives the rank's rows to all ranks. By a block, two warps for each node.
template <class Peers>
__device__ inline void scanNodes(const PlanSizes &sizes, const PlanBuffer &buffer, const Peers &peers) {
  for (uint32_t number = blockWarp(); number < 2 * sizes.nodes; number += blockWarps()) {
    const uint32_t node = number / 2;
    const bool hasRows = number % 2 == 0;
    uint32_t *counts = hasRows ? buffer.tileRows : buffer.tileEntries;
    const uint32_t sum = scanTileCounts(counts + uint64_t{node} * sizes.tiles, sizes.tiles);
    if (!hasRows) {
      if (laneOf() == 0) buffer.nodeEntries[node] = sum;
      continue;
    }
    for (uint32_t peer = laneOf(); peer < sizes.ranks; peer += warpSize_) {
      peers.factsOf(peer).nodeRows[node] = sum;
    }
  }
}

// layLanding of one rank, and where its lists start for each node. By a warp.
__device__ inline void layLandingTogether(const PlanSizes &sizes, const PlanBuffer &buffer, uint32_t rank,
                                          const ForwardShared &shared) {
  const uint32_t localNode = rank / sizes.ranksPerNode;
  const uint16_t *groups = shared.railGroups;
  const auto rowsOf = [&](uint32_t source, uint32_t node) {
    return shared.nodeRows[source * sizes.nodes + node];
  };
  uint32_t rows = 0;
  uint32_t entries = 0;
  for (uint32_t first = 0; first < sizes.nodes; first += warpSize_) {
    const uint32_t node = first + laneOf();
    const bool isThere = node < sizes.nodes;
    const Scan<uint32_t> rowScan = warpScan(isThere ? rowsOf(rank, node) : 0u);
    const Scan<uint32_t> entryScan = warpScan(isThere ? buffer.nodeEntries[node] : 0);
    if (isThere) {
      uint32_t landingRow = 0;
      for (uint32_t source = 0; source < rank && node != localNode; source++) {
        if (groups[source] == groups[rank]) landingRow += rowsOf(source, node);
      }
      buffer.landingRow[node] = landingRow;
      buffer.firstRow[node] = rows + rowScan.below;
      buffer.firstEntry[node] = entries + entryScan.below;
    }
    rows += rowScan.all;
    entries += entryScan.all;
  }
  uint32_t staged = 0;
  for (uint32_t first = 0; first < sizes.ranks; first += warpSize_) {
    const uint32_t source = first + laneOf();
    const bool isMember = source < sizes.ranks && groups[source] == groups[rank];
    const bool isOther = isMember && source != rank;
    const uint32_t sourceRows = isOther ? rowsOf(source, localNode) : 0;
    const Scan<uint32_t> scan = warpScan(sourceRows);
    if (source < sizes.ranks) {
      buffer.railGroups[source] = groups[source];
      buffer.sourceRow[source] = isOther ? staged + scan.below : 0;
      buffer.sourceRows[source] = sourceRows;
    }
    if (isMember) buffer.forwarder[source / sizes.ranksPerNode] = source;
    staged += scan.all;
  }
  if (laneOf() != 0) return;
  buffer.offset[rows] = entries;
  buffer.state->rule = shared.rule;
  buffer.state->stageRows = staged;
}

// Rail groups and landing rows of the local ranks. By a block, a warp for each rank; one thread decides, the
// same for all ranks. `bufferAt(local)` returns a rank's plan buffer.
template <class BufferAt>
__device__ inline void layForward(const PlanParams &params, ForwardShared &shared, uint32_t firstLocal,
                                  uint32_t endLocal, BufferAt bufferAt) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[firstLocal];
  const PlanBuffer first = bufferAt(firstLocal);
  for (uint32_t from = blockWarp(); from < sizes.ranks; from += blockWarps()) {
    uint32_t *kept = first.nodeRows + uint64_t{from} * sizes.nodes;
    const uint32_t *told = hasInbox(params, rank) ? factsAt(params, rank, from).nodeRows : kept;
    for (uint32_t node = laneOf(); node < sizes.nodes; node += warpSize_) {
      const uint32_t rows = told[node];
      shared.nodeRows[from * sizes.nodes + node] = rows;
      if (told != kept) kept[node] = rows;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const BalanceInput input{sizes.ranks, sizes.ranksPerNode, shared.nodeRows, sizes.nodes,
                             shared.sent, shared.load,        shared.byLoad,   shared.byGroup};
    shared.rule = balanceGroups(input, sizes.balance, shared.railGroups);
  }
  __syncthreads();
  for (uint32_t local = firstLocal + blockWarp(); local < endLocal; local += blockWarps()) {
    layLandingTogether(sizes, bufferAt(local), params.rankOf[local], shared);
  }
}

}  // namespace fusco::cuda
