// Dispatch between GPUs in one pass. A warp takes work items by ticket:
//
// - send (local rank, chunk, slice): loads each row slice of the chunk once and stores it to all slots on
// this
//   device and to one landing slot per remote rank; then sets the chunk's flag at each remote rank with rows
//   in it.
// - fan (local rank, source rank, chunk, slice): waits for the flag, then copies each row slice from its
// landing
//   slot to the row's other slots.
//
// The fan items of a chunk follow the send items of a chunk `lag` later. A warp waits only for flags that
// other devices set in send items of a lower ticket, so some warp can always proceed, whatever number of
// blocks is resident.
#pragma once

#include "chunk_device.cuh"
#include "element_device.cuh"
#include "row_stages_device.cuh"

namespace fusco::cuda::one_pass_move {

// What the kernel is compiled for. Programs that compare variants derive from it.
struct Tuning {
  static constexpr uint32_t warps = 4;
  static constexpr uint32_t stages = 7;
  static constexpr uint32_t stageBytes = moveSliceBytes;
  // Stores of the last rows that may still read their stage.
  static constexpr int keep = 2;
};

template <class T>
struct alignas(128) Shared {
  uint8_t stage[T::warps][T::stages][T::stageBytes];
  uint2 entry[T::warps][maxChunkEntries];
  uint64_t barrier[T::warps][T::stages];
  uint8_t *to[maxPayloads][maxRanks];  // receive rows by rank; those of other processes once they are ready
  LaunchShared launch;
};

struct Item {
  bool isSend;
  uint32_t local;   // local index of the rank that sends or receives
  uint32_t source;  // rank whose tokens these are
  uint32_t first;   // first token
  uint32_t tokens;
  uint32_t chunk;
  uint32_t slice;
};

// Copies rows of a per-token payload that are too short for the TMA unit, or not aligned: lanes share the
// units of all rows of the chunk, several in flight each.
template <class T, class Unit>
__device__ void copyShortRows(const MoveParams &p, const OnePassHead &head, const Item &item,
                              const uint2 *entry, uint32_t index, const Shared<T> &shared, uint32_t lane) {
  constexpr uint32_t inFlight = 4;
  const Payload &payload = p.dispatch.payload[index];
  const uint32_t rank = head.local[item.local];
  const uint64_t units = payload.rowBytes / sizeof(Unit);
  const uint64_t total = item.tokens * head.topk * units;
  // Unit `unit` of the row of `token`: of the source, or where it has landed.
  const auto source = [&](uint32_t token, uint64_t unit) {
    const uint8_t *row = payload.from[rank] + uint64_t{item.first + token} * payload.rowBytes;
    for (uint32_t k = 0; !item.isSend && k < head.topk; k++) {
      const uint32_t slot = entry[token * head.topk + k].y;
      if (slot == noSlot || (slot & isLanding) == 0) continue;
      row = shared.to[index][rank] + uint64_t{slot & ~isLanding} * payload.rowBytes;
    }
    return reinterpret_cast<const Unit *>(row) + unit;
  };
  for (uint64_t base = lane; base < total; base += 32 * inFlight) {
    Unit value[inFlight];
    Unit *to[inFlight];
#pragma unroll
    for (uint32_t i = 0; i < inFlight; i++) {
      const uint64_t at = base + 32 * i;
      to[i] = nullptr;
      if (at >= total) continue;
      const auto number = static_cast<uint32_t>(at / units);
      const uint2 e = entry[number];
      if (item.isSend ? static_cast<int32_t>(e.y) < 0 : (e.y & isLanding) != 0) continue;
      to[i] = reinterpret_cast<Unit *>(shared.to[index][e.x] + uint64_t{e.y} * payload.rowBytes) + at % units;
      value[i] = *source(number / head.topk, at % units);
    }
#pragma unroll
    for (uint32_t i = 0; i < inFlight; i++) {
      if (to[i] != nullptr) *to[i] = value[i];
    }
  }
}

// Payloads that are not moved by the TMA unit, origins and values of entries: they travel with slice 0.
template <class T>
__device__ void moveRest(const MoveParams &p, const OnePassHead &head, const Item &item, const uint2 *entry,
                         const Shared<T> &shared, uint32_t lane) {
  const RankTables tables = tablesOf(p.common.plan, head, item.local);
  const uint32_t rank = head.local[item.local];
  const uint32_t count = item.tokens * head.topk;
  for (uint32_t i = p.dispatch.leading; i < p.dispatch.payloads; i++) {
    const Payload &payload = p.dispatch.payload[i];
    if (payload.perEntry != 0) {
      if (!item.isSend) continue;
      const Place *places = tables.place + uint64_t{item.first} * head.topk;
      const uint8_t *from = payload.from[rank] + uint64_t{item.first} * head.topk * payload.rowBytes;
      withUnit(payload.unit, [&](auto unit) {
        using Unit = decltype(unit);
        const uint64_t units = payload.rowBytes / sizeof(Unit);
        for (uint64_t at = lane; at < count * units; at += 32) {
          const Place place = places[at / units];
          if (place.row < 0) continue;
          uint8_t *to = shared.to[i][place.peer] + static_cast<uint64_t>(place.row) * payload.rowBytes;
          reinterpret_cast<Unit *>(to)[at % units] = reinterpret_cast<const Unit *>(from)[at];
        }
      });
      continue;
    }
    withUnit(payload.unit,
             [&](auto unit) { copyShortRows<T, decltype(unit)>(p, head, item, entry, i, shared, lane); });
  }
  if (p.dispatch.hasOrigins == 0) return;
  for (uint32_t at = lane; at < count; at += 32) {
    const uint2 e = entry[at];
    if (item.isSend ? static_cast<int32_t>(e.y) < 0 || head.localOf[e.x] == noSlot : e.y == noSlot) continue;
    int32_t *origin = p.dispatch.origins[e.x] + uint64_t{e.y & ~isLanding} * originWords;
    writeOrigin(origin, item.source, item.first + at / head.topk, at % head.topk);
  }
}

// Before the first store to another device: its receive buffers must be free, and where they are must be
// known. Returns false after a failure.
template <class T>
__device__ bool becomeReady(const MoveParams &p, const Item &item, Shared<T> &shared, StagedWarp &warp,
                            uint32_t epoch) {
  if (!item.isSend || warp.mayStore) return true;
  warp.mayStore = awaitAddresses(p.common, epoch, p.dispatch.payloads, shared.to, warp.lane);
  return warp.mayStore;
}

// Moves one slice of the chunk's rows by the TMA unit. Returns false after a failure.
template <class T>
__device__ bool moveSlice(const MoveParams &p, const OnePassHead &head, const Item &item, const uint2 *entry,
                          Shared<T> &shared, StagedWarp &warp, uint64_t policy, uint32_t epoch) {
  uint32_t index = 0;
  while (item.slice >= p.sliceStart[index + 1]) index++;
  const Payload &payload = p.dispatch.payload[index];
  const uint64_t offset = uint64_t{item.slice - p.sliceStart[index]} * T::stageBytes;
  const uint32_t bytes = static_cast<uint32_t>(min(payload.rowBytes - offset, uint64_t{T::stageBytes}));
  const uint32_t rank = head.local[item.local];
  // Lane i looks at token i.
  const uint8_t *from = nullptr;
  uint32_t stores = 0;
  if (warp.lane < item.tokens) {
    from = payload.from[rank] + uint64_t{item.first + warp.lane} * payload.rowBytes + offset;
    for (uint32_t k = 0; k < head.topk; k++) {
      const uint32_t row = entry[warp.lane * head.topk + k].y;
      if (item.isSend) {
        stores += static_cast<int32_t>(row) >= 0 ? 1 : 0;
      } else if (row != noSlot) {
        if ((row & isLanding) != 0) {
          from = shared.to[index][rank] + uint64_t{row & ~isLanding} * payload.rowBytes + offset;
        } else {
          stores++;
        }
      }
    }
  }
  const uint32_t active = __ballot_sync(~0u, stores > 0);
  uint32_t toLoad = active;
  uint32_t toStore = active;
  const uint32_t total = __popc(active);
  uint32_t loads = 0;
  auto load = [&] {
    const uint32_t token = __ffs(toLoad) - 1;
    toLoad &= toLoad - 1;
    const uint8_t *row = reinterpret_cast<const uint8_t *>(
        __shfl_sync(~0u, reinterpret_cast<unsigned long long>(from), token));
    if (warp.lane == 0) {
      const uint32_t stage = warp.issued % T::stages;
      barrierExpect(&shared.barrier[warp.index][stage], bytes);
      tmaLoad(shared.stage[warp.index][stage], row, bytes, &shared.barrier[warp.index][stage]);
    }
    warp.issued++;
    loads++;
  };
  while (loads < T::stages && loads < total) load();
  const bool mayStore = becomeReady<T>(p, item, shared, warp, epoch);
  for (uint32_t done = 0; done < total; done++) {
    const uint32_t token = __ffs(toStore) - 1;
    toStore &= toStore - 1;
    const uint32_t stage = awaitStage<T>(shared, warp);
    for (uint32_t k = warp.lane; mayStore && k < head.topk; k += 32) {
      const uint2 e = entry[token * head.topk + k];
      if (item.isSend ? static_cast<int32_t>(e.y) < 0 : (e.y & isLanding) != 0) continue;
      uint8_t *to = shared.to[index][e.x] + uint64_t{e.y} * payload.rowBytes + offset;
      if (shared.launch.isLocal(e.x)) {
        tmaStore(to, shared.stage[warp.index][stage], bytes, policy);
      } else {
        tmaStore(to, shared.stage[warp.index][stage], bytes);
      }
    }
    tmaCommit();
    tmaWaitRead<T::keep>();
    __syncwarp();
    while (loads < total && loads + T::keep <= done + T::stages) load();
  }
  tmaWaitRead();
  __syncwarp();
  return mayStore;
}

// Returns false after a failure.
template <class T>
__device__ bool runItem(const MoveParams &p, const OnePassHead &head, const Item &item, Shared<T> &shared,
                        StagedWarp &warp, uint32_t epoch, uint64_t policy) {
  const RankTables tables = tablesOf(p.common.plan, head, item.local);
  const uint32_t rank = head.local[item.local];
  const uint32_t count = item.tokens * head.topk;
  uint2 *entry = shared.entry[warp.index];
  // The remote ranks with rows in this chunk (send), or the first one if the chunk has any row (fan).
  RankSet touched;
  for (uint32_t at = warp.lane; at < count; at += 32) {
    uint2 e;
    if (item.isSend) {
      const Place place = tables.send[uint64_t{item.first} * head.topk + at];
      e = make_uint2(place.peer, static_cast<uint32_t>(place.row));
      if (place.row >= 0 && !shared.launch.isLocal(place.peer)) touched.add(place.peer);
    } else {
      const uint64_t first = head.arrivalStart[item.source] + item.first;
      e = make_uint2(rank, tables.arrival[first * head.topk + at]);
      if (e.y != noSlot) touched.add(0);
    }
    entry[at] = e;
  }
  touched.join();
  __syncwarp();
  const uint64_t flag = uint64_t{shared.launch.chunkStart[item.source] + item.chunk} * p.slices + item.slice;
  if (!item.isSend) {
    if (touched.isEmpty()) return true;
    if (!awaitFlagOfWarp(p.common, p.common.flags[rank] + flag, epoch, item.source, warp.lane)) return false;
    tmaAcquireFence();
  }
  const bool moved = p.dispatch.leading > 0 ? moveSlice<T>(p, head, item, entry, shared, warp, policy, epoch)
                                            : becomeReady<T>(p, item, shared, warp, epoch);
  if (!moved) return false;
  if (item.slice == 0 && (p.dispatch.payloads > p.dispatch.leading || p.dispatch.hasOrigins != 0)) {
    moveRest<T>(p, head, item, entry, shared, warp.lane);
  }
  if (item.isSend && !touched.isEmpty()) {
    // The rows that this warp has sent have arrived.
    tmaWait();
    __syncwarp();
    setFlags(p.common, head, touched, flag, epoch, warp.lane);
  }
  __syncwarp();
  return true;
}

// Padding rows become zero, and their origins -1.
template <class T>
__device__ void fillPadding(const MoveParams &p) {
  const DispatchParams &dispatch = p.dispatch;
  const uint32_t warps = gridDim.x * T::warps;
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = blockIdx.x * T::warps + threadIdx.x / 32; i < dispatch.plan.head->paddings; i += warps) {
    const PaddingRange range = dispatch.plan.paddings[i];
    for (uint32_t j = 0; j < dispatch.payloads; j++) {
      const Payload &payload = dispatch.payload[j];
      withUnit(payload.unit, [&](auto unit) {
        using Unit = decltype(unit);
        Unit *to =
            reinterpret_cast<Unit *>(payload.to[range.rank] + uint64_t{range.first} * payload.rowBytes);
        for (uint64_t at = lane; at < range.rows * (payload.rowBytes / sizeof(Unit)); at += 32)
          to[at] = Unit{};
      });
    }
    if (dispatch.hasOrigins == 0) continue;
    int32_t *origins = dispatch.origins[range.rank];
    for (uint64_t at = lane; at < uint64_t{range.rows} * 3; at += 32)
      origins[uint64_t{range.first} * 3 + at] = -1;
  }
}

template <class T>
__global__ void __launch_bounds__(T::warps * 32, 1) moveKernel(const __grid_constant__ MoveParams p) {
  extern __shared__ uint8_t memory[];
  Shared<T> &shared = *reinterpret_cast<Shared<T> *>(memory);
  StagedWarp warp{threadIdx.x / 32, threadIdx.x % 32};
  initStages<T>(shared);
  awaitStreamOrder();
  const OnePassCommon &c = p.common;
  const OnePassHead &head = *c.plan.head;
  const uint64_t policy = evictFirstPolicy();
  uint32_t ticket = takeTicket(&c.control->ticket[0], warp.lane);
  for (uint32_t at = threadIdx.x; at < p.dispatch.payloads * head.ranks; at += blockDim.x) {
    shared.to[at / head.ranks][at % head.ranks] = p.dispatch.payload[at / head.ranks].to[at % head.ranks];
  }
  if (!beginLaunch(c, shared.launch, &p.told)) return;
  const uint32_t epoch = shared.launch.epoch;

  const uint32_t steps = chunksOf(head.maxTokens, c.chunkTokens) + (head.remotes > 0 ? p.lag : 0);
  const uint32_t fans = head.locals * head.remotes;
  const uint32_t perStep = (head.locals + fans) * p.slices;
  ticket = __shfl_sync(~0u, ticket, 0);
  while (ticket / perStep < steps) {
    const uint32_t next = takeTicket(&c.control->ticket[0], warp.lane);
    const uint32_t step = ticket / perStep;
    const uint32_t kind = ticket % perStep / p.slices;
    Item item{};
    item.slice = ticket % p.slices;
    item.isSend = kind < head.locals;
    item.chunk = step;
    bool exists = true;
    if (item.isSend) {
      item.local = kind;
      item.source = head.local[kind];
    } else {
      item.local = (kind - head.locals) / head.remotes;
      item.source = head.remote[(kind - head.locals) % head.remotes];
      exists = step >= p.lag;
      item.chunk = step - p.lag;
    }
    if (exists && findTokens(c, head, item.source, item) &&
        !runItem<T>(p, head, item, shared, warp, epoch, policy)) {
      break;
    }
    ticket = __shfl_sync(~0u, next, 0);
  }
  fillPadding<T>(p);
  tmaWait();
  endLaunch(c, shared.launch);
}

}  // namespace fusco::cuda::one_pass_move
