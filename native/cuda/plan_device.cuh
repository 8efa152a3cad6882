// Planning on the device: the passes of native/planning by warps and blocks. Lists are stable counting sorts
// of entries: warps count the keys of tiles of entries, a scan over the tiles gives the first position of
// each (key, tile), and the warps count again, from there on, so that every entry gets its position.
//
// Each function is one pass over a tile, a key or a rank, `local` being the local index of the rank. Between
// passes all threads of the rank, or of the device, are waited for.
#pragma once

#include "entry_passes.hpp"
#include "ids.hpp"
#include "landing_passes.hpp"
#include "plan_params.hpp"
#include "plan_tables.hpp"
#include "run_passes.hpp"

namespace fusco::cuda {

using namespace planning;

constexpr uint32_t warpSize_ = 32;
constexpr uint32_t wholeWarp = 0xffffffffu;

__device__ inline uint32_t laneOf() { return threadIdx.x % warpSize_; }
// The number of a warp in its block.
__device__ inline uint32_t blockWarp() { return threadIdx.x / warpSize_; }

__device__ inline PlanBuffer bufferOf(const PlanParams &params, uint32_t rank) {
  PlanBuffer buffer;
  layPlanBuffer(params.sizes, params.buffers[rank], buffer);
  return buffer;
}

// Where rank `to` has what rank `from` tells it.
__device__ inline Facts factsAt(const PlanParams &params, uint32_t to, uint32_t from) {
  const PlanSizes &sizes = params.sizes;
  if (params.inbox[to].counts != nullptr) return params.inbox[to].of(sizes, from);
  Facts facts;
  const PlanBuffer buffer = bufferOf(params, to);
  const uint64_t start = arrivalStart(sizes, params.deviceRanks[to], from);
  facts.counts = buffer.counts + uint64_t{from} * sizes.targets;
  facts.tokens = buffer.tokens + from;
  facts.nodeRows = buffer.nodeRows + uint64_t{from} * sizes.nodes;
  facts.arrival = buffer.arrival + start * sizes.topk;
  facts.arrivalRow = buffer.arrivalRow + start;
  return facts;
}

// Counters of keys that one warp advances: a column of a table [keys, tiles] in global memory, or a copy of
// it in shared memory, which is much closer.
class WarpCounters {
 public:
  // `copy`: [keys] words of this warp in shared memory, or null.
  __device__ WarpCounters(uint32_t *column, uint32_t tiles, uint32_t keys, uint32_t *copy)
      : column_(column),
        tiles_(tiles),
        keys_(keys),
        at_(copy == nullptr ? column : copy),
        stride_(copy == nullptr ? tiles : 1) {}

  __device__ void clear() {
    for (uint32_t key = laneOf(); key < keys_; key += warpSize_) at(key) = 0;
    __syncwarp();
  }
  __device__ void load() {
    if (at_ == column_) return;
    for (uint32_t key = laneOf(); key < keys_; key += warpSize_) at(key) = column_[uint64_t{key} * tiles_];
    __syncwarp();
  }
  __device__ void store() const {
    if (at_ == column_) return;
    for (uint32_t key = laneOf(); key < keys_; key += warpSize_) column_[uint64_t{key} * tiles_] = at(key);
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

  uint32_t *column_;
  uint32_t tiles_, keys_;
  uint32_t *at_;
  uint32_t stride_;
};

extern __shared__ uint32_t counterWords[];

// Copies of counters take less than the shared memory that every kernel may have without asking.
constexpr uint32_t maxCounterBytes = 47 * 1024;

// Bytes of the copies of the counters of a block of `warps`, `tables` for each warp; 0: there are no copies.
FUSCO_ON_BOTH inline uint32_t counterBytes(uint32_t keys, uint32_t tables, uint32_t warps) {
  const uint64_t bytes = uint64_t{keys} * tables * warps * sizeof(uint32_t);
  return bytes <= maxCounterBytes ? static_cast<uint32_t>(bytes) : 0;
}

// Counters of a warp: number `table` of `tables`.
__device__ inline WarpCounters countersOf(uint32_t *counts, uint32_t tile, uint32_t tiles, uint32_t keys,
                                          uint32_t table, uint32_t tables) {
  uint32_t *copy = nullptr;
  if (counterBytes(keys, tables, blockDim.x / warpSize_) > 0) {
    copy = counterWords + (blockWarp() * tables + table) * keys;
  }
  return {counts + tile, tiles, keys, copy};
}

// A tile of a rank's entries, which one warp works on.
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

__device__ inline uint64_t warpLeast(uint64_t value) {
  for (uint32_t step = warpSize_ / 2; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(wholeWarp, value, step);
    if (other < value) value = other;
  }
  return value;
}

// Least value of a block's threads, in all of them. Once in a kernel.
__device__ inline uint64_t blockLeast(uint64_t value) {
  __shared__ unsigned long long least;
  if (threadIdx.x == 0) least = UINT64_MAX;
  __syncthreads();
  const uint64_t ofWarp = warpLeast(value);
  if (laneOf() == 0 && ofWarp != UINT64_MAX) atomicMin(&least, static_cast<unsigned long long>(ofWarp));
  __syncthreads();
  return least;
}

__device__ inline uint32_t warpSum(uint32_t value) {
  for (uint32_t step = warpSize_ / 2; step > 0; step /= 2) value += __shfl_xor_sync(wholeWarp, value, step);
  return value;
}

// Sum of the values of the lanes below.
__device__ inline uint32_t warpSumBelow(uint32_t value) {
  uint32_t sum = value;
  for (uint32_t step = 1; step < warpSize_; step *= 2) {
    const uint32_t other = __shfl_up_sync(wholeWarp, sum, step);
    if (laneOf() >= step) sum += other;
  }
  return sum - value;
}

// Writes the targets of a tile's entries and counts them; bad ids are masked, and the first is remembered.
__device__ inline void routeTile(const PlanParams &params, uint32_t local, uint32_t number) {
  const PlanSizes &sizes = params.sizes;
  const RankIds &ids = params.ids[local];
  const PlanBuffer buffer = bufferOf(params, params.rankOf[local]);
  const Tile tile(params, local, number);
  const uint64_t experts = uint64_t{local} * sizes.experts;
  const bool isSingle = params.candidateFirst == nullptr;
  const Routing routing{sizes.experts,
                        sizes.topk,
                        static_cast<uint16_t>(sizes.targets),
                        {isSingle ? nullptr : params.candidateFirst + experts,
                         isSingle ? nullptr : params.candidateCount + experts,
                         params.targets + uint64_t{local} * params.targetStride}};
  WarpCounters counters = countersOf(buffer.tileCounts, tile.number, sizes.tiles, sizes.targets, 0, 1);
  counters.clear();
  uint64_t bad = UINT64_MAX;
  withIds(ids.dtype, ids.data, [&](const auto *data) {
    for (uint32_t first = tile.first; first < tile.end; first += warpSize_) {
      const uint32_t entry = first + laneOf();
      uint32_t key = noKey;
      if (entry < tile.end) {
        const uint32_t token = entry / sizes.topk;
        const uint32_t k = entry % sizes.topk;
        const Routed routed = routeEntry(routing, data + uint64_t{token} * sizes.topk, token, k);
        buffer.instance[entry] = routed.target;
        if (routed.target != routing.masked) key = routed.target;
        const uint64_t code = uint64_t{entry} << 2 | static_cast<uint32_t>(routed.bad);
        if (routed.bad != BadId::none && code < bad) bad = code;
      }
      counters.next(key);
    }
  });
  counters.store();
  bad = warpLeast(bad);
  if (laneOf() == 0) buffer.tileBad[tile.number] = bad;
}

// Replaces counts [tiles] by the sums of those before, and returns their sum to all lanes. A lane loads
// several counts at a time, since each load is waited for.
__device__ inline uint32_t scanTileCounts(uint32_t *counts, uint32_t tiles) {
  constexpr uint32_t perLane = 4;
  uint32_t sum = 0;
  for (uint32_t first = 0; first < tiles; first += perLane * warpSize_) {
    const uint32_t start = first + perLane * laneOf();
    uint32_t count[perLane];
    uint32_t ofLane = 0;
#pragma unroll
    for (uint32_t i = 0; i < perLane; i++) {
      count[i] = start + i < tiles ? counts[start + i] : 0;
      ofLane += count[i];
    }
    uint32_t below = sum + warpSumBelow(ofLane);
#pragma unroll
    for (uint32_t i = 0; i < perLane; i++) {
      if (start + i < tiles) counts[start + i] = below;
      below += count[i];
    }
    sum += warpSum(ofLane);
  }
  return sum;
}

// Scans the counts of one target, and gives the rank's count to all ranks; with the first target, the number
// of its tokens as well.
__device__ inline void scanTarget(const PlanParams &params, uint32_t local, uint32_t key) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const PlanBuffer buffer = bufferOf(params, rank);
  const uint32_t sum = scanTileCounts(buffer.tileCounts + uint64_t{key} * sizes.tiles, sizes.tiles);
  for (uint32_t peer = laneOf(); peer < sizes.ranks; peer += warpSize_) {
    const Facts facts = factsAt(params, peer, rank);
    facts.counts[key] = sum;
    if (key == 0) *facts.tokens = params.ids[local].tokens;
  }
}

// Sum over a block's threads, in all of them. `shared`: a word for each warp.
__device__ inline uint32_t blockSum(uint32_t value, uint32_t *shared) {
  const uint32_t sum = warpSum(value);
  __syncthreads();
  if (laneOf() == 0) shared[threadIdx.x / warpSize_] = sum;
  __syncthreads();
  return warpSum(shared[laneOf()]);
}

// Sum over the threads below, and of all threads.
struct BlockScan {
  uint32_t below;
  uint32_t all;
};
__device__ inline BlockScan blockScan(uint32_t value, uint32_t *shared) {
  const uint32_t inWarp = warpSumBelow(value);
  const uint32_t sum = warpSum(value);
  __syncthreads();
  if (laneOf() == 0) shared[threadIdx.x / warpSize_] = sum;
  __syncthreads();
  const uint32_t warps = shared[laneOf()];
  const uint32_t warpsBelow = __shfl_sync(wholeWarp, warpSumBelow(warps), threadIdx.x / warpSize_);
  return {warpsBelow + inWarp, warpSum(warps)};
}

__device__ inline GroupTables groupOf(const PlanParams &params, const PlanBuffer &buffer) {
  const PlanSizes &sizes = params.sizes;
  const bool hasQuotas = sizes.hasQuotas();
  return {sizes.ranks,
          sizes.instances,
          sizes.capacity,
          sizes.align,
          params.placement.rankFirst,
          hasQuotas ? buffer.quotas : buffer.counts,
          hasQuotas ? sizes.instances : sizes.targets,
          buffer.totals,
          buffer.blockRow};
}

__device__ inline uint32_t lesserOf(uint32_t a, uint32_t b) { return a < b ? a : b; }

// What the first bad id of a rank is, and how many entries are masked.
__device__ inline void fillState(const PlanParams &params, uint32_t local, const PlanBuffer &buffer,
                                 uint64_t bad, uint32_t entriesWithTarget) {
  const PlanSizes &sizes = params.sizes;
  const RankIds &ids = params.ids[local];
  PlanState &state = *buffer.state;
  state.badEntry = bad;
  state.badValue = 0;
  state.tokens = ids.tokens;
  state.masked = ids.tokens * sizes.topk - entriesWithTarget;
  state.stageRows = 0;
  state.staged = 0;
  state.rule = FUSCO_BALANCE_BEST;
  state.idDtype = ids.dtype;
  state.barrier[0] = state.barrier[1] = 0;
  if (bad == UINT64_MAX) return;
  withIds(ids.dtype, ids.data,
          [&](const auto *data) { state.badValue = static_cast<uint64_t>(data[bad >> 2]); });
}

// Copies what other processes have told of their tokens' targets. By a block.
__device__ inline void takeCounts(const PlanParams &params, const PlanBuffer &buffer, uint32_t rank) {
  if (params.inbox[rank].counts == nullptr) return;
  const PlanSizes &sizes = params.sizes;
  for (uint32_t at = threadIdx.x; at < sizes.ranks * sizes.targets; at += blockDim.x) {
    buffer.counts[at] = factsAt(params, rank, at / sizes.targets).counts[at % sizes.targets];
  }
  for (uint32_t from = threadIdx.x; from < sizes.ranks; from += blockDim.x) {
    buffer.tokens[from] = *factsAt(params, rank, from).tokens;
  }
  __syncthreads();
}

// The receive side of a rank: its experts' blocks and runs, also clipped to maxRecvRows, and the padding.
// Returns the number of ranges of padding. By a block.
__device__ inline uint32_t fillReceive(const PlanParams &params, const PlanBuffer &buffer, uint32_t rank,
                                       uint32_t recvRows, uint32_t *shared) {
  const PlanSizes &sizes = params.sizes;
  const GroupTables group = groupOf(params, buffer);
  const uint32_t first = params.placement.rankFirst[rank];
  const uint32_t localInstances = params.placement.rankFirst[rank + 1] - first;
  const uint32_t limit = sizes.maxRecvRows;
  uint32_t overflow = 0;
  uint32_t paddings = 0;
  for (uint32_t start = 0; start < localInstances; start += blockDim.x) {
    const uint32_t j = start + threadIdx.x;
    RowRange padding{0, 0};
    if (j < localInstances) {
      const uint32_t row = buffer.blockRow[first + j];
      const uint32_t end = j + 1 < localInstances ? buffer.blockRow[first + j + 1] : recvRows;
      const uint32_t rows = keptRows(0, buffer.totals[first + j], sizes.capacity);
      const uint32_t clipped = row >= limit ? 0 : lesserOf(rows, limit - row);
      buffer.expertOffset[j] = row;
      buffer.expertRows[j] = rows;
      buffer.clippedOffset[j] = lesserOf(row, limit);
      buffer.clippedRows[j] = clipped;
      overflow += rows - clipped;
      padding = paddingOf(row, rows, end, limit);
    }
    const BlockScan scan = blockScan(padding.rows > 0 ? 1 : 0, shared);
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
  overflow = blockSum(overflow, shared);
  if (threadIdx.x == 0) {
    buffer.expertOffset[localInstances] = recvRows;
    buffer.clippedOffset[localInstances] = lesserOf(recvRows, limit);
    buffer.state->recvRows = recvRows;
    buffer.state->overflowRows = overflow;
  }
  return paddings;
}

// layBlocks of all ranks, by a block of threads. Returns the rows of the receive buffer of `rank`.
__device__ inline uint32_t layBlocksTogether(const PlanParams &params, const PlanBuffer &buffer,
                                             const GroupTables &group, uint32_t rank, uint32_t *shared) {
  const uint32_t *rankFirst = params.placement.rankFirst;
  // First rows as if all ranks shared one buffer; they may wrap.
  uint32_t *first = buffer.position;
  uint32_t row = 0;
  for (uint32_t start = 0; start < group.instances; start += blockDim.x) {
    const uint32_t i = start + threadIdx.x;
    uint32_t rows = 0;
    if (i < group.instances) {
      const BlockCounts sums = sumCounts(group, rank, i);
      buffer.before[i] = sums.before;
      group.totals[i] = sums.total;
      rows = static_cast<uint32_t>(paddedRows(group, i));
    }
    const BlockScan scan = blockScan(rows, shared);
    if (i < group.instances) first[i] = row + scan.below;
    row += scan.all;
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < group.instances; i += blockDim.x) {
    buffer.blockRow[i] = first[i] - first[rankFirst[params.placement.instanceRank[i]]];
  }
  const auto firstOf = [&](uint32_t of) {
    return rankFirst[of] < group.instances ? first[rankFirst[of]] : row;
  };
  const uint32_t recvRows = firstOf(rank + 1) - firstOf(rank);
  __syncthreads();
  return recvRows;
}

// The heads that exchanges read. By a block.
__device__ inline void fillHeads(const PlanParams &params, const PlanBuffer &buffer, uint32_t rank,
                                 uint32_t tokens, uint32_t paddings, uint32_t *shared) {
  const PlanSizes &sizes = params.sizes;
  if (threadIdx.x == 0) {
    layDeviceRank(*buffer.head, 0, rank, 0);
    layDeviceHead(*buffer.head, sizes, 1, tokens, paddings);
  }
  const RankBits local = params.deviceRanks[rank];
  // Several ranks of a device get tables of their own for each exchange.
  if (params.hasOthers == 0 || local.count() > 1) return;
  // Other warps may still read what the last sum left there.
  __syncthreads();
  if (threadIdx.x == 0) shared[0] = 0;
  __syncthreads();
  for (uint32_t of = threadIdx.x; of < sizes.ranks; of += blockDim.x) {
    layOnePassRank(*buffer.onePass, sizes, local, of, 0, buffer.tokens[of]);
    atomicMax(shared, buffer.tokens[of]);
  }
  __syncthreads();
  if (threadIdx.x == 0) layOnePassSizes(*buffer.onePass, sizes, local, shared[0]);
}

// From the facts to the rows of blocks and runs. By a block; `shared`: a word for each warp.
__device__ inline void layTables(const PlanParams &params, uint32_t local, uint32_t *shared) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const PlanBuffer buffer = bufferOf(params, rank);
  takeCounts(params, buffer, rank);
  if (sizes.hasQuotas()) {
    if (threadIdx.x == 0) computeQuotas(quotaTables(sizes, params.placement, buffer));
    __syncthreads();
  }
  const GroupTables group = groupOf(params, buffer);
  const uint32_t ownRecvRows = layBlocksTogether(params, buffer, group, rank, shared);
  const uint32_t firstRank = sizes.isFlat != 0 ? 0 : rank - rank % sizes.ranksPerNode;
  const uint32_t endRank = sizes.isFlat != 0 ? sizes.ranks : firstRank + sizes.ranksPerNode;
  const uint32_t directFirst = params.placement.rankFirst[firstRank];
  const uint32_t directEnd = params.placement.rankFirst[endRank];
  uint32_t position = 0;
  for (uint32_t first = 0; first < sizes.instances; first += blockDim.x) {
    const uint32_t i = first + threadIdx.x;
    const bool isThere = i < sizes.instances;
    RowRange run{0, 0};
    if (isThere) run = runOf(group, rank, i, buffer.before[i]);
    const bool isDirect = i >= directFirst && i < directEnd;
    const BlockScan scan = blockScan(isDirect ? run.rows : 0, shared);
    if (isThere) {
      buffer.runRow[i] = run.first;
      buffer.runRows[i] = run.rows;
      buffer.position[i] = position + scan.below;
    }
    position += scan.all;
  }
  const uint32_t paddings = fillReceive(params, buffer, rank, ownRecvRows, shared);
  fillHeads(params, buffer, rank, params.ids[local].tokens, paddings, shared);

  uint32_t count = 0;
  for (uint32_t i = threadIdx.x; i < sizes.targets; i += blockDim.x) {
    count += buffer.counts[uint64_t{rank} * sizes.targets + i];
  }
  count = blockSum(count, shared);
  uint64_t bad = UINT64_MAX;
  for (uint32_t tile = threadIdx.x; tile < sizes.tiles; tile += blockDim.x) {
    if (buffer.tileBad[tile] < bad) bad = buffer.tileBad[tile];
  }
  bad = blockLeast(bad);
  if (threadIdx.x == 0) fillState(params, local, buffer, bad, count);
}

// Tells other ranks where the rows of a tile's entries go. After placeTile, by the same warp.
__device__ inline void tellTile(const PlanParams &params, uint32_t local, const Tile &tile) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const PlanBuffer buffer = bufferOf(params, rank);
  for (uint32_t entry = tile.first + laneOf(); entry < tile.end; entry += warpSize_) {
    const uint32_t token = entry / sizes.topk;
    const uint32_t k = entry - token * sizes.topk;
    const uint32_t first = entry - k;
    tellEntry(sizes, params.deviceRanks[rank], {buffer.place + first, sizes.topk}, token, k,
              buffer.send + first, buffer.terms + first, [&](uint32_t here) {
                const Facts facts = factsAt(params, here, rank);
                return ArrivalTables{facts.arrival, facts.arrivalRow};
              });
  }
}

// Slots, places and the send order of a tile's entries.
__device__ inline void placeTile(const PlanParams &params, uint32_t local, uint32_t number) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const PlanBuffer buffer = bufferOf(params, rank);
  const Tile tile(params, local, number);
  const uint32_t firstRank = sizes.isFlat != 0 ? 0 : rank - rank % sizes.ranksPerNode;
  const uint32_t endRank = sizes.isFlat != 0 ? sizes.ranks : firstRank + sizes.ranksPerNode;
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
  WarpCounters counters = countersOf(buffer.tileCounts, tile.number, sizes.tiles, sizes.targets, 0, 1);
  counters.load();
  for (uint32_t first = tile.first; first < tile.end; first += warpSize_) {
    const uint32_t entry = first + laneOf();
    const bool isThere = entry < tile.end;
    const uint32_t target = isThere ? buffer.instance[entry] : sizes.targets;
    const bool isMasked = target == sizes.targets;
    uint32_t position = counters.next(isMasked ? noKey : target);
    if (!isThere) continue;
    uint32_t instance = isMasked ? sizes.instances : target;
    if (sizes.hasQuotas()) {
      if (!isMasked) {
        const uint16_t *hosts = params.placement.hosts + params.placement.hostFirst[target];
        const QuotaChoice choice = instanceByQuota(quotas, hosts, position);
        instance = choice.instance;
        position = choice.position;
      }
      buffer.instance[entry] = static_cast<uint16_t>(instance);
    }
    if (isMasked) {
      markMasked(tables, entry);
    } else {
      placeEntry(tables, entry, instance, position);
    }
    const int32_t slot = buffer.slot[entry];
    const uint32_t peer = isMasked ? 0 : params.placement.instanceRank[instance];
    const bool isClipped = slot >= 0 && static_cast<uint32_t>(slot) >= sizes.maxRecvRows;
    buffer.place[entry] = {peer, isClipped ? FUSCO_SLOT_DROPPED : slot};
  }
  if (params.hasOthers == 0) return;
  // A tile has whole tokens.
  __syncwarp();
  tellTile(params, local, tile);
}

__device__ inline ForwardLists forwardLists(const PlanParams &params, uint32_t rank,
                                            const PlanBuffer &buffer) {
  return {params.sizes.topk,
          rank / params.sizes.ranksPerNode,
          buffer.instance,
          buffer.slot,
          params.placement.instanceRank,
          params.placement.instanceNode,
          buffer.forwarder,
          buffer.landingRow,
          buffer.firstRow,
          buffer.firstEntry,
          buffer.token,
          buffer.target,
          buffer.offset,
          buffer.distributed};
}

// Calls `use(entry, token, node, row, position)` with each entry of a tile whose row is forwarded; `row` is
// noKey for an entry that leads none. The whole warp takes part.
template <class Use>
__device__ inline void forEachForwarded(const ForwardLists &lists, const Tile &tile, WarpCounters &rows,
                                        WarpCounters &entries, Use use) {
  for (uint32_t first = tile.first; first < tile.end; first += warpSize_) {
    const uint32_t entry = first + laneOf();
    const uint32_t token = entry / lists.topk;
    const uint32_t node = entry < tile.end ? forwardKey(lists, entry) : noKey;
    const bool leads = node != noKey && leadsRow(lists, token * lists.topk, entry, node);
    const uint32_t position = entries.next(node);
    const uint32_t row = rows.next(leads ? node : noKey);
    if (node != noKey) use(entry, token, node, leads ? row : noKey, position);
  }
}

// Forwarded rows and distributed entries of a tile, by node.
__device__ inline void countForwarded(const PlanParams &params, uint32_t local, uint32_t number) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const PlanBuffer buffer = bufferOf(params, rank);
  const Tile tile(params, local, number);
  WarpCounters rows = countersOf(buffer.tileRows, tile.number, sizes.tiles, sizes.nodes, 0, 2);
  WarpCounters entries = countersOf(buffer.tileEntries, tile.number, sizes.tiles, sizes.nodes, 1, 2);
  rows.clear();
  entries.clear();
  forEachForwarded(forwardLists(params, rank, buffer), tile, rows, entries,
                   [](uint32_t, uint32_t, uint32_t, uint32_t, uint32_t) {});
  rows.store();
  entries.store();
}

// Scans the counts of one node, and gives the rank's rows to all ranks.
__device__ inline void scanNode(const PlanParams &params, uint32_t local, uint32_t node) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const PlanBuffer buffer = bufferOf(params, rank);
  const uint64_t first = uint64_t{node} * sizes.tiles;
  const uint32_t rows = scanTileCounts(buffer.tileRows + first, sizes.tiles);
  const uint32_t entries = scanTileCounts(buffer.tileEntries + first, sizes.tiles);
  if (laneOf() == 0) buffer.nodeEntries[node] = entries;
  for (uint32_t peer = laneOf(); peer < sizes.ranks; peer += warpSize_) {
    factsAt(params, peer, rank).nodeRows[node] = rows;
  }
}

// Copies tables of at most one element per rank or node by all threads of a block.
template <class T>
__device__ inline void copyTogether(T *to, const T *from, uint32_t count) {
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}

// What one thread needs in shared memory to lay out landing rows.
struct ForwardShared {
  uint32_t nodeRows[maxRanks * maxRanks];
  uint64_t sent[maxRanks], load[maxRanks];
  uint16_t byLoad[maxRanks], byGroup[maxRanks], railGroups[maxRanks];
  uint32_t forwarder[maxRanks], landingRow[maxRanks], firstRow[maxRanks];
  uint32_t sourceRow[maxRanks], sourceRows[maxRanks];
};

// Rail groups and landing rows, in the dynamic shared memory of a block. One thread decides.
__device__ inline void layForward(const PlanParams &params, uint32_t local) {
  ForwardShared &shared = *reinterpret_cast<ForwardShared *>(counterWords);
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const PlanBuffer buffer = bufferOf(params, rank);
  if (params.inbox[rank].counts != nullptr) {
    for (uint32_t at = threadIdx.x; at < sizes.ranks * sizes.nodes; at += blockDim.x) {
      buffer.nodeRows[at] = factsAt(params, rank, at / sizes.nodes).nodeRows[at % sizes.nodes];
    }
    __syncthreads();
  }
  copyTogether(shared.nodeRows, buffer.nodeRows, sizes.ranks * sizes.nodes);
  __syncthreads();
  if (threadIdx.x == 0) {
    const BalanceInput input{sizes.ranks, sizes.ranksPerNode, shared.nodeRows, sizes.nodes,
                             shared.sent, shared.load,        shared.byLoad,   shared.byGroup};
    buffer.state->rule = balanceGroups(input, sizes.balance, shared.railGroups);
    buffer.state->stageRows = static_cast<uint32_t>(layLanding(
        input, shared.railGroups, rank,
        {shared.forwarder, shared.landingRow, shared.firstRow, shared.sourceRow, shared.sourceRows}));
    uint32_t rows = 0;
    uint32_t entries = 0;
    for (uint32_t node = 0; node < sizes.nodes; node++) {
      buffer.firstEntry[node] = entries;
      entries += buffer.nodeEntries[node];
      rows += shared.nodeRows[rank * sizes.nodes + node];
    }
    buffer.offset[rows] = entries;
  }
  __syncthreads();
  copyTogether(buffer.railGroups, shared.railGroups, sizes.ranks);
  copyTogether(buffer.forwarder, shared.forwarder, sizes.nodes);
  copyTogether(buffer.landingRow, shared.landingRow, sizes.nodes);
  copyTogether(buffer.firstRow, shared.firstRow, sizes.nodes);
  copyTogether(buffer.sourceRow, shared.sourceRow, sizes.ranks);
  copyTogether(buffer.sourceRows, shared.sourceRows, sizes.ranks);
}

// Forwarding and distribution lists of a tile's entries.
__device__ inline void forwardTile(const PlanParams &params, uint32_t local, uint32_t number) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const PlanBuffer buffer = bufferOf(params, rank);
  const Tile tile(params, local, number);
  const ForwardLists lists = forwardLists(params, rank, buffer);
  WarpCounters rows = countersOf(buffer.tileRows, tile.number, sizes.tiles, sizes.nodes, 0, 2);
  WarpCounters entries = countersOf(buffer.tileEntries, tile.number, sizes.tiles, sizes.nodes, 1, 2);
  rows.load();
  entries.load();
  uint32_t staged = 0;
  forEachForwarded(lists, tile, rows, entries,
                   [&](uint32_t entry, uint32_t token, uint32_t node, uint32_t row, uint32_t position) {
                     distributeEntry(lists, entry, node, position);
                     if (row == noKey) return;
                     staged += forwardRow(lists, token, entry, node, row, position) ? 1 : 0;
                   });
  staged = warpSum(staged);
  if (laneOf() == 0 && staged > 0) atomicAdd(&buffer.state->staged, staged);
}

// Copies what rank `from`, another process, has told of its tokens. By the threads of a crew, number `thread`
// of `threads`.
__device__ inline void takeArrival(const PlanParams &params, uint32_t local, uint32_t from, uint64_t thread,
                                   uint64_t threads) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  if (from == rank) return;
  const PlanBuffer buffer = bufferOf(params, rank);
  const Facts facts = factsAt(params, rank, from);
  const uint64_t start = arrivalStart(sizes, params.deviceRanks[rank], from);
  const uint32_t tokens = lesserOf(buffer.tokens[from], sizes.maxTokens);
  for (uint64_t at = thread; at < uint64_t{tokens} * sizes.topk; at += threads) {
    buffer.arrival[start * sizes.topk + at] = facts.arrival[at];
  }
  for (uint64_t at = thread; at < tokens; at += threads) buffer.arrivalRow[start + at] = facts.arrivalRow[at];
}

}  // namespace fusco::cuda
