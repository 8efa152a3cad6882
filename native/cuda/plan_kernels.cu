// Planning on the device: the passes of native/planning under kernels. Lists are stable counting sorts of
// entries: warps count the keys of tiles of entries, a scan over the tiles gives the first position of each
// (key, tile), and the warps count again, from there on, so that every entry gets its position.

#include "entry_passes.hpp"
#include "ids.hpp"
#include "landing_passes.hpp"
#include "plan_launch.hpp"
#include "run_passes.hpp"

namespace fusco::cuda {

namespace {

using namespace planning;

constexpr uint32_t warpSize_ = 32;
constexpr uint32_t wholeWarp = 0xffffffffu;
constexpr uint32_t tileWarps = 4;  // of a block
constexpr uint32_t tableThreads = 1024;

__device__ uint32_t laneOf() { return threadIdx.x % warpSize_; }

__device__ PlanBuffer bufferOf(const PlanParams &params, uint32_t rank) {
  PlanBuffer buffer;
  layPlanBuffer(params.sizes, params.buffers[rank], buffer);
  return buffer;
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

// Copies of counters take at most the shared memory that every kernel may have without asking.
constexpr uint32_t maxCounterBytes = 48 * 1024;

// Bytes of the copies of a block's counters, `tables` for each warp; 0: there are no copies.
__host__ __device__ uint32_t counterBytes(uint32_t keys, uint32_t tables) {
  const uint64_t bytes = uint64_t{keys} * tables * tileWarps * sizeof(uint32_t);
  return bytes <= maxCounterBytes ? static_cast<uint32_t>(bytes) : 0;
}

// Counters of a warp: number `table` of `tables`.
__device__ WarpCounters countersOf(uint32_t *counts, uint32_t tile, uint32_t tiles, uint32_t keys,
                                   uint32_t table, uint32_t tables) {
  uint32_t *copy = nullptr;
  if (counterBytes(keys, tables) > 0) {
    copy = counterWords + (threadIdx.x / warpSize_ * tables + table) * keys;
  }
  return {counts + tile, tiles, keys, copy};
}

// The tile of a warp. Blocks have tileWarps warps; tiles are on x, local ranks on y.
struct Tile {
  uint32_t number;
  uint32_t first;
  uint32_t end;  // of the rank's entries in it

  __device__ Tile(const PlanSizes &sizes, uint32_t entries) {
    number = blockIdx.x * tileWarps + threadIdx.x / warpSize_;
    const uint64_t start = uint64_t{number} * sizes.tileEntries;
    first = start < entries ? static_cast<uint32_t>(start) : entries;
    end = entries - first < sizes.tileEntries ? entries : first + sizes.tileEntries;
  }
};

__device__ uint64_t warpLeast(uint64_t value) {
  for (uint32_t step = warpSize_ / 2; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(wholeWarp, value, step);
    if (other < value) value = other;
  }
  return value;
}

__device__ uint32_t warpSum(uint32_t value) {
  for (uint32_t step = warpSize_ / 2; step > 0; step /= 2) value += __shfl_xor_sync(wholeWarp, value, step);
  return value;
}

// Sum of the values of the lanes below.
__device__ uint32_t warpSumBelow(uint32_t value) {
  uint32_t sum = value;
  for (uint32_t step = 1; step < warpSize_; step *= 2) {
    const uint32_t other = __shfl_up_sync(wholeWarp, sum, step);
    if (laneOf() >= step) sum += other;
  }
  return sum - value;
}

// Writes the targets of a tile's entries and counts them; bad ids are masked, and the first is remembered.
__global__ void __launch_bounds__(tileWarps *warpSize_) routeTiles(const PlanParams params) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t local = blockIdx.y;
  const RankIds &ids = params.ids[local];
  const PlanBuffer buffer = bufferOf(params, params.rankOf[local]);
  const Tile tile(sizes, ids.tokens * sizes.topk);
  if (tile.number >= sizes.tiles) return;
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

// Replaces counts [tiles] by the sums of those before, and returns their sum to all lanes.
__device__ uint32_t scanTileCounts(uint32_t *counts, uint32_t tiles) {
  uint32_t sum = 0;
  for (uint32_t first = 0; first < tiles; first += warpSize_) {
    const uint32_t tile = first + laneOf();
    const uint32_t count = tile < tiles ? counts[tile] : 0;
    const uint32_t below = warpSumBelow(count);
    if (tile < tiles) counts[tile] = sum + below;
    sum += warpSum(count);
  }
  return sum;
}

// The number of a warp in the grid's x dimension.
__device__ uint32_t warpNumber() { return (blockIdx.x * blockDim.x + threadIdx.x) / warpSize_; }

// Scans the counts of one target per warp, and gives the rank's count to all ranks.
__global__ void scanTargets(const PlanParams params) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t key = warpNumber();
  if (key >= sizes.targets) return;
  const uint32_t rank = params.rankOf[blockIdx.y];
  const PlanBuffer buffer = bufferOf(params, rank);
  const uint32_t sum = scanTileCounts(buffer.tileCounts + uint64_t{key} * sizes.tiles, sizes.tiles);
  for (uint32_t peer = laneOf(); peer < sizes.ranks; peer += warpSize_) {
    bufferOf(params, peer).counts[uint64_t{rank} * sizes.targets + key] = sum;
  }
}

// Sum over a block's threads, in all of them. `shared`: a word for each warp.
__device__ uint32_t blockSum(uint32_t value, uint32_t *shared) {
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
__device__ BlockScan blockScan(uint32_t value, uint32_t *shared) {
  const uint32_t inWarp = warpSumBelow(value);
  const uint32_t sum = warpSum(value);
  __syncthreads();
  if (laneOf() == 0) shared[threadIdx.x / warpSize_] = sum;
  __syncthreads();
  const uint32_t warps = shared[laneOf()];
  const uint32_t warpsBelow = __shfl_sync(wholeWarp, warpSumBelow(warps), threadIdx.x / warpSize_);
  return {warpsBelow + inWarp, warpSum(warps)};
}

__device__ GroupTables groupOf(const PlanParams &params, const PlanBuffer &buffer) {
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

__device__ uint32_t lesserOf(uint32_t a, uint32_t b) { return a < b ? a : b; }

// What the first bad id of a rank is, and how many entries are masked.
__device__ void fillState(const PlanParams &params, uint32_t local, const PlanBuffer &buffer, uint64_t bad,
                          uint32_t entriesWithTarget) {
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
  if (bad == UINT64_MAX) return;
  withIds(ids.dtype, ids.data,
          [&](const auto *data) { state.badValue = static_cast<uint64_t>(data[bad >> 2]); });
}

// The receive side of a rank: its experts' blocks and runs, also clipped to maxRecvRows.
__device__ void fillReceive(const PlanParams &params, const PlanBuffer &buffer, uint32_t rank,
                            uint32_t recvRows, uint32_t *shared) {
  const PlanSizes &sizes = params.sizes;
  const GroupTables group = groupOf(params, buffer);
  const uint32_t first = params.placement.rankFirst[rank];
  const uint32_t localInstances = params.placement.rankFirst[rank + 1] - first;
  const uint32_t limit = sizes.maxRecvRows;
  uint32_t overflow = 0;
  for (uint32_t j = threadIdx.x; j < localInstances; j += blockDim.x) {
    const uint32_t row = buffer.blockRow[first + j];
    const uint32_t rows = keptRows(0, buffer.totals[first + j], sizes.capacity);
    const uint32_t clipped = row >= limit ? 0 : lesserOf(rows, limit - row);
    buffer.expertOffset[j] = row;
    buffer.expertRows[j] = rows;
    buffer.clippedOffset[j] = lesserOf(row, limit);
    buffer.clippedRows[j] = clipped;
    overflow += rows - clipped;
    layRuns(group, first + j, buffer.recvRow + uint64_t{j} * sizes.ranks,
            buffer.recvRows + uint64_t{j} * sizes.ranks);
  }
  overflow = blockSum(overflow, shared);
  if (threadIdx.x != 0) return;
  buffer.expertOffset[localInstances] = recvRows;
  buffer.clippedOffset[localInstances] = lesserOf(recvRows, limit);
  buffer.state->recvRows = recvRows;
  buffer.state->overflowRows = overflow;
}

// layBlocks of all ranks, by a block of threads. Returns the rows of the receive buffer of `rank`.
__device__ uint32_t layBlocksTogether(const PlanParams &params, const PlanBuffer &buffer,
                                      const GroupTables &group, uint32_t rank, uint32_t *shared) {
  const uint32_t *rankFirst = params.placement.rankFirst;
  // First rows as if all ranks shared one buffer; they may wrap.
  uint32_t *first = buffer.position;
  uint32_t row = 0;
  for (uint32_t start = 0; start < group.instances; start += blockDim.x) {
    const uint32_t i = start + threadIdx.x;
    uint32_t rows = 0;
    if (i < group.instances) {
      sumCounts(group, rank, i, i + 1, buffer.before);
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

// One block for each rank: from the facts to the rows of blocks and runs.
__global__ void __launch_bounds__(tableThreads) layTables(const PlanParams params) {
  __shared__ uint32_t shared[warpSize_];
  const PlanSizes &sizes = params.sizes;
  const uint32_t local = blockIdx.x;
  const uint32_t rank = params.rankOf[local];
  const PlanBuffer buffer = bufferOf(params, rank);
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
  fillReceive(params, buffer, rank, ownRecvRows, shared);

  uint32_t count = 0;
  for (uint32_t i = threadIdx.x; i < sizes.targets; i += blockDim.x) {
    count += buffer.counts[uint64_t{rank} * sizes.targets + i];
  }
  count = blockSum(count, shared);
  if (threadIdx.x >= warpSize_) return;
  uint64_t bad = UINT64_MAX;
  for (uint32_t tile = threadIdx.x; tile < sizes.tiles; tile += warpSize_) {
    if (buffer.tileBad[tile] < bad) bad = buffer.tileBad[tile];
  }
  bad = warpLeast(bad);
  if (threadIdx.x == 0) fillState(params, local, buffer, bad, count);
}

// Slots, places and the send order of a tile's entries.
__global__ void __launch_bounds__(tileWarps *warpSize_) placeTiles(const PlanParams params) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[blockIdx.y];
  const PlanBuffer buffer = bufferOf(params, rank);
  const Tile tile(sizes, params.ids[blockIdx.y].tokens * sizes.topk);
  if (tile.number >= sizes.tiles) return;
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
}

__device__ ForwardLists forwardLists(const PlanParams &params, uint32_t rank, const PlanBuffer &buffer) {
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
__device__ void forEachForwarded(const ForwardLists &lists, const Tile &tile, WarpCounters &rows,
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
__global__ void __launch_bounds__(tileWarps *warpSize_) countForwarded(const PlanParams params) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[blockIdx.y];
  const PlanBuffer buffer = bufferOf(params, rank);
  const Tile tile(sizes, params.ids[blockIdx.y].tokens * sizes.topk);
  if (tile.number >= sizes.tiles) return;
  WarpCounters rows = countersOf(buffer.tileRows, tile.number, sizes.tiles, sizes.nodes, 0, 2);
  WarpCounters entries = countersOf(buffer.tileEntries, tile.number, sizes.tiles, sizes.nodes, 1, 2);
  rows.clear();
  entries.clear();
  forEachForwarded(forwardLists(params, rank, buffer), tile, rows, entries,
                   [](uint32_t, uint32_t, uint32_t, uint32_t, uint32_t) {});
  rows.store();
  entries.store();
}

// Scans the counts of one node per warp, and gives the rank's rows to all ranks.
__global__ void scanNodes(const PlanParams params) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t node = warpNumber();
  if (node >= sizes.nodes) return;
  const uint32_t rank = params.rankOf[blockIdx.y];
  const PlanBuffer buffer = bufferOf(params, rank);
  const uint64_t first = uint64_t{node} * sizes.tiles;
  const uint32_t rows = scanTileCounts(buffer.tileRows + first, sizes.tiles);
  const uint32_t entries = scanTileCounts(buffer.tileEntries + first, sizes.tiles);
  if (laneOf() == 0) buffer.nodeEntries[node] = entries;
  for (uint32_t peer = laneOf(); peer < sizes.ranks; peer += warpSize_) {
    bufferOf(params, peer).nodeRows[uint64_t{rank} * sizes.nodes + node] = rows;
  }
}

// Copies tables of at most one element per rank or node by all threads of a block.
template <class T>
__device__ void copyTogether(T *to, const T *from, uint32_t count) {
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}

// One block for each rank: rail groups and landing rows. One thread decides, in shared memory.
__global__ void layForward(const PlanParams params) {
  __shared__ uint32_t nodeRows[maxRanks * maxRanks];
  __shared__ uint64_t sent[maxRanks], load[maxRanks];
  __shared__ uint16_t byLoad[maxRanks], byGroup[maxRanks], railGroups[maxRanks];
  __shared__ uint32_t forwarder[maxRanks], landingRow[maxRanks], firstRow[maxRanks];
  __shared__ uint32_t sourceRow[maxRanks], sourceRows[maxRanks];
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[blockIdx.x];
  const PlanBuffer buffer = bufferOf(params, rank);
  copyTogether(nodeRows, buffer.nodeRows, sizes.ranks * sizes.nodes);
  __syncthreads();
  if (threadIdx.x == 0) {
    const BalanceInput input{sizes.ranks, sizes.ranksPerNode, nodeRows, sizes.nodes, sent, load, byLoad,
                             byGroup};
    buffer.state->rule = balanceGroups(input, sizes.balance, railGroups);
    buffer.state->stageRows = static_cast<uint32_t>(
        layLanding(input, railGroups, rank, {forwarder, landingRow, firstRow, sourceRow, sourceRows}));
    uint32_t rows = 0;
    uint32_t entries = 0;
    for (uint32_t node = 0; node < sizes.nodes; node++) {
      buffer.firstEntry[node] = entries;
      entries += buffer.nodeEntries[node];
      rows += nodeRows[rank * sizes.nodes + node];
    }
    buffer.offset[rows] = entries;
  }
  __syncthreads();
  copyTogether(buffer.railGroups, railGroups, sizes.ranks);
  copyTogether(buffer.forwarder, forwarder, sizes.nodes);
  copyTogether(buffer.landingRow, landingRow, sizes.nodes);
  copyTogether(buffer.firstRow, firstRow, sizes.nodes);
  copyTogether(buffer.sourceRow, sourceRow, sizes.ranks);
  copyTogether(buffer.sourceRows, sourceRows, sizes.ranks);
}

// Forwarding and distribution lists of a tile's entries.
__global__ void __launch_bounds__(tileWarps *warpSize_) forwardTiles(const PlanParams params) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[blockIdx.y];
  const PlanBuffer buffer = bufferOf(params, rank);
  const Tile tile(sizes, params.ids[blockIdx.y].tokens * sizes.topk);
  if (tile.number >= sizes.tiles) return;
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

uint32_t ceilDiv(uint32_t value, uint32_t by) { return (value + by - 1) / by; }

constexpr uint32_t tileThreads = tileWarps * warpSize_;
constexpr uint32_t landingThreads = 128;

// A warp for each of `count` tiles or keys of each local rank.
dim3 warpGrid(const PlanParams &params, uint32_t count) {
  return {ceilDiv(count, tileWarps), params.localRanks};
}

}  // namespace

cudaError_t launchPlanCounts(const PlanParams &params, cudaStream_t stream) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t bytes = counterBytes(sizes.targets, 1);
  routeTiles<<<warpGrid(params, sizes.tiles), tileThreads, bytes, stream>>>(params);
  scanTargets<<<warpGrid(params, sizes.targets), tileThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

cudaError_t launchPlanSlots(const PlanParams &params, cudaStream_t stream) {
  const PlanSizes &sizes = params.sizes;
  const dim3 tiles = warpGrid(params, sizes.tiles);
  layTables<<<params.localRanks, tableThreads, 0, stream>>>(params);
  placeTiles<<<tiles, tileThreads, counterBytes(sizes.targets, 1), stream>>>(params);
  if (sizes.isFlat == 0) {
    countForwarded<<<tiles, tileThreads, counterBytes(sizes.nodes, 2), stream>>>(params);
    scanNodes<<<warpGrid(params, sizes.nodes), tileThreads, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

cudaError_t launchPlanForward(const PlanParams &params, cudaStream_t stream) {
  const PlanSizes &sizes = params.sizes;
  layForward<<<params.localRanks, landingThreads, 0, stream>>>(params);
  forwardTiles<<<warpGrid(params, sizes.tiles), tileThreads, counterBytes(sizes.nodes, 2), stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fusco::cuda
