// The gradient of combine between GPUs in one pass. A warp takes work items by ticket:
//
// - send (local rank, chunk): stores each row of the output gradient to one landing slot per remote rank, and
//   the weights of the chunk to the device of that rank; then sets the chunk's flag there.
// - own (local rank, chunk): the slots on this device.
// - fan (local rank, source rank, chunk): waits for the flag, then computes the slots of this rank from the
//   landing rows; stores each dot product to the source rank, and sets the chunk's second flag there.
//
// For a slot a warp reads a row of the output gradient and a row of the experts, stores the first one scaled,
// and adds up their dot product. When no tickets are left, warps wait for the dot products of their device's
// tokens.
//
// The fan items of a chunk follow the send items of a chunk `lag` later. A warp that has a ticket waits only
// for flags that other devices set in send items of a lower ticket, so some warp can always proceed, whatever
// number of blocks is resident. A warp that waits for dot products has no ticket: all items of its device
// have been taken by warps that run.
#pragma once

#include "chunk_device.cuh"
#include "dot_device.cuh"
#include "move_device.cuh"
#include "one_pass_gradient.hpp"

namespace fusco::cuda::one_pass_gradient {

// What the kernel is compiled for. Programs that compare variants derive from it.
struct Tuning {
  static constexpr uint32_t warps = 12;
  // Threads that share a slot, and units of each of its rows that a thread loads at a time.
  static constexpr uint32_t slotThreads = 8;
  static constexpr uint32_t inFlight = 14;
};
// One slot of a chunk's entries.
struct Dot {
  uint32_t row;
  uint32_t info;  // token of the chunk, k << dotK, rank << dotRank
};
constexpr uint32_t dotK = 8;
constexpr uint32_t dotRank = 16;
static_assert(maxChunkEntries <= 1u << dotK, "a token or k does not fit into a byte");

// The outputs of the call.
enum class Output : uint32_t { rows, weightsGradient };
constexpr uint32_t outputs = 2;

// Outputs by rank; those of other processes once they are ready.
struct RemoteOutputs {
  uint8_t *of[outputs][maxRanks];
};

template <class T>
struct alignas(16) Shared {
  uint2 entry[T::warps][maxChunkEntries];  // rank, and slot or noSlot
  Dot dot[T::warps][maxChunkEntries];
  uint32_t landing[T::warps][maxChunkEntries];  // of each token of the chunk
  RemoteOutputs remote[T::warps];
  LaunchShared launch;
};

enum class Kind : uint32_t { send, own, fan };

struct Item {
  Kind kind;
  uint32_t local;   // local index of the rank that sends or receives
  uint32_t source;  // rank whose tokens these are
  uint32_t chunk;
  uint32_t first;  // first token
  uint32_t tokens;
};

// Row `row` of an output of rank `rank`, which is on another device. Of the gradient of weights a row is one
// entry.
__device__ __forceinline__ uint8_t *remoteRow(const CombineGradientParams &p, const RemoteOutputs &remote,
                                              Output output, uint32_t rank, uint64_t row) {
  const uint64_t bytes = output == Output::rows ? p.dispatch.payload[0].rowBytes : sizeof(float);
  return remote.of[static_cast<uint32_t>(output)][rank] + row * bytes;
}

// Number of a rank's flag that says that the dot products of `sender` for a chunk of the rank have arrived.
// They follow the flags of the rows of all ranks.
__device__ inline uint64_t dotFlag(const OnePassCommon &c, const OnePassHead &head,
                                   const LaunchShared &launch, uint32_t home, uint32_t sender,
                                   uint32_t chunk) {
  const uint32_t last = head.ranks - 1;
  const uint64_t rows = launch.chunkStart[last] + chunksOf(head.tokens[last], c.chunkTokens);
  return rows + uint64_t{sender} * chunksOf(head.tokens[home], c.chunkTokens) + chunk;
}

// Calls f(rank) by one lane for each remote rank with slots of the chunk; `places` are those of the chunk.
template <class F>
__device__ void forRemoteRanks(const OnePassHead &head, const LaunchShared &launch, const Place *places,
                               uint32_t count, uint32_t lane, F f) {
  RankSet ranks;
  for (uint32_t at = lane; at < count; at += 32) {
    const Place place = places[at];
    if (place.row >= 0 && !launch.isLocal(place.peer)) ranks.add(place.peer);
  }
  ranks.join();
  for (uint32_t rank = lane; rank < head.ranks; rank += 32) {
    if (ranks.has(rank)) f(rank);
  }
}

// Stores a token's row to its landing slots.
__device__ inline void sendRow(const CombineGradientParams &p, const RemoteOutputs &remote,
                               const uint8_t *from, const uint2 *entry, uint32_t topk, uint32_t lane) {
  const Payload &payload = p.dispatch.payload[0];
  const auto *row = reinterpret_cast<const uint4 *>(from);
  const auto units = static_cast<uint32_t>(payload.rowBytes / wideUnit);
  for (uint32_t first = 0; first < units; first += 32 * unitsInFlight) {
    uint4 value[unitsInFlight];
#pragma unroll
    for (uint32_t i = 0; i < unitsInFlight; i++) {
      const uint32_t at = first + i * 32 + lane;
      if (at < units) value[i] = row[at];
    }
    for (uint32_t k = 0; k < topk; k++) {
      const uint2 e = entry[k];
      if (e.y == noSlot) continue;
      auto *to = reinterpret_cast<uint4 *>(remoteRow(p, remote, Output::rows, e.x, e.y));
#pragma unroll
      for (uint32_t i = 0; i < unitsInFlight; i++) {
        const uint32_t at = first + i * 32 + lane;
        if (at < units) to[at] = value[i];
      }
    }
  }
}

__device__ inline void send(const CombineGradientParams &p, const OnePassHead &head, const Item &item,
                            uint2 *entry, const RemoteOutputs &remote, const LaunchShared &launch,
                            uint32_t lane) {
  const uint32_t topk = head.topk;
  const uint32_t count = item.tokens * topk;
  const Place *places = tablesOf(p.common.plan, head, item.local).send + uint64_t{item.first} * topk;
  RankSet ranks;
  for (uint32_t at = lane; at < count; at += 32) {
    const Place place = places[at];
    const bool isSent = place.row >= 0 && !launch.isLocal(place.peer);
    entry[at] = make_uint2(place.peer, isSent ? static_cast<uint32_t>(place.row) : noSlot);
    if (isSent) ranks.add(place.peer);
  }
  ranks.join();
  __syncwarp();
  if (ranks.isEmpty()) return;
  const float *weights = p.dispatch.scale[item.source] + uint64_t{item.first} * topk;
  const uint64_t pushed =
      pushedEntry(p.pushedEntries, launch.epoch, uint64_t{head.tokenStart[item.source]} + item.first, topk);
  for (uint32_t rank = 0; rank < head.ranks; rank++) {
    if (!ranks.has(rank)) continue;
    for (uint32_t at = lane; at < count; at += 32) {
      p.pushed[rank][pushed + at] = pushedWord(launch.epoch, weights[at]);
    }
  }
  const Payload &payload = p.dispatch.payload[0];
  for (uint32_t token = 0; token < item.tokens; token++) {
    const uint8_t *from = payload.from[item.source] + (uint64_t{item.first} + token) * payload.rowBytes;
    bool isSent = false;
    for (uint32_t k = 0; k < topk; k++) isSent = isSent || entry[token * topk + k].y != noSlot;
    if (isSent) sendRow(p, remote, from, entry + token * topk, topk, lane);
  }
  __syncwarp();
  const uint64_t flag = launch.chunkStart[item.source] + item.chunk;
  setFlags(p.common, head, ranks, flag, launch.epoch, lane);
  __syncwarp();
}

// Lists the slots of a chunk. The landing slot of a token comes after its other slots: its row is read for
// all of them, and overwritten last. Returns their number.
__device__ inline uint32_t listDots(const uint2 *entry, uint32_t tokens, uint32_t topk, Dot *dot,
                                    uint32_t lane) {
  const uint32_t lower = (1u << lane) - 1;
  uint32_t dots = 0;
  for (uint32_t token = 0; token < tokens; token++) {
    Dot landing{noSlot, 0};
    for (uint32_t base = 0; base < topk; base += 32) {
      const uint32_t k = base + lane;
      const uint2 e = k < topk ? entry[token * topk + k] : make_uint2(0, noSlot);
      const Dot found{e.y & ~isLanding, token | k << dotK | e.x << dotRank};
      const bool isUsed = e.y != noSlot;
      const bool hasLanded = isUsed && (e.y & isLanding) != 0;
      if (hasLanded) landing = found;
      const uint32_t others = __ballot_sync(allLanes, isUsed && !hasLanded);
      if (isUsed && !hasLanded) dot[dots + __popc(others & lower)] = found;
      dots += __popc(others);
    }
    const bool hasLanding = landing.row != noSlot;
    const uint32_t landed = __ballot_sync(allLanes, hasLanding);
    if (hasLanding) dot[dots] = landing;
    dots += landed != 0 ? 1 : 0;
  }
  __syncwarp();
  return dots;
}

// Computes the listed slots. `weights` are those of the chunk's entries, each `weightStride` floats behind
// the one before.
template <class T, class E>
__device__ void runDots(const CombineGradientParams &p, const OnePassHead &head, const Item &item,
                        const RemoteOutputs &remote, const Dot *dot, uint32_t dots, const uint32_t *landing,
                        const float *weights, uint32_t weightStride, uint32_t lane) {
  const Payload &payload = p.dispatch.payload[0];
  const uint64_t rowBytes = payload.rowBytes;
  using Rows = SlotRows<E, true, T::slotThreads, T::inFlight>;
  using Unit = typename Rows::Unit;
  const uint32_t thread = lane % T::slotThreads;
  for (uint32_t base = 0; base < dots; base += warpLanes / T::slotThreads) {
    const uint32_t index = base + lane / T::slotThreads;
    const bool isUsed = index < dots;
    const Dot found = dot[isUsed ? index : 0];
    const uint32_t token = found.info & 0xff;
    const uint32_t rank = found.info >> dotRank;
    const uint32_t entry = token * head.topk + (found.info >> dotK & 0xff);
    const uint8_t *gradient = item.kind == Kind::own
                                  ? payload.from[item.source] + (uint64_t{item.first} + token) * rowBytes
                                  : payload.to[rank] + uint64_t{landing[token]} * rowBytes;
    const uint64_t row = uint64_t{found.row} * rowBytes;
    Rows slot;
    slot.gradient = reinterpret_cast<const Unit *>(gradient);
    slot.experts = reinterpret_cast<const Unit *>(p.rows[rank] + row);
    slot.to = reinterpret_cast<Unit *>(payload.to[rank] + row);
    slot.weight = weights[entry * weightStride];
    slot.run(static_cast<uint32_t>(rowBytes / sizeof(Unit)), isUsed, thread);
    const float total = slot.total();
    if (!isUsed || thread != 0) continue;
    const uint64_t number = uint64_t{item.first} * head.topk + entry;
    float *product =
        item.kind == Kind::own
            ? p.weightsGradient[item.source] + number
            : reinterpret_cast<float *>(remoteRow(p, remote, Output::weightsGradient, item.source, number));
    *product = __uint_as_float(DeviceF32::encode(total));
  }
  __syncwarp();
}

// Origins of the chunk's rows on this device.
__device__ inline void writeOrigins(const DispatchParams &dispatch, const OnePassHead &head, const Item &item,
                                    const uint2 *entry, uint32_t lane) {
  if (dispatch.hasOrigins == 0) return;
  for (uint32_t at = lane; at < item.tokens * head.topk; at += 32) {
    const uint2 e = entry[at];
    if (e.y == noSlot) continue;
    int32_t *to = dispatch.origins[e.x] + uint64_t{e.y & ~isLanding} * originWords;
    writeOrigin(to, item.source, item.first + at / head.topk, at % head.topk);
  }
}

// Slots on this device of local tokens. Entries without a slot have the gradient 0.
template <class T, class E>
__device__ void own(const CombineGradientParams &p, const OnePassHead &head, const Item &item,
                    Shared<T> &shared, uint32_t warp, uint32_t lane) {
  uint2 *entry = shared.entry[warp];
  Dot *dot = shared.dot[warp];
  const uint64_t first = uint64_t{item.first} * head.topk;
  const Place *places = tablesOf(p.common.plan, head, item.local).place + first;
  for (uint32_t at = lane; at < item.tokens * head.topk; at += 32) {
    const Place place = places[at];
    const bool isHere = place.row >= 0 && shared.launch.isLocal(place.peer);
    entry[at] = make_uint2(place.peer, isHere ? static_cast<uint32_t>(place.row) : noSlot);
    if (place.row < 0) p.weightsGradient[item.source][first + at] = 0.0f;
  }
  __syncwarp();
  writeOrigins(p.dispatch, head, item, entry, lane);
  const uint32_t dots = listDots(entry, item.tokens, head.topk, dot, lane);
  runDots<T, E>(p, head, item, shared.remote[warp], dot, dots, nullptr, p.dispatch.scale[item.source] + first,
                1, lane);
}

// Slots of a local rank of remote tokens. Returns false after a failure.
template <class T, class E>
__device__ bool fan(const CombineGradientParams &p, const OnePassHead &head, const Item &item,
                    Shared<T> &shared, uint32_t warp, uint32_t lane) {
  uint2 *entry = shared.entry[warp];
  Dot *dot = shared.dot[warp];
  uint32_t *landing = shared.landing[warp];
  const LaunchShared &launch = shared.launch;
  const OnePassCommon &c = p.common;
  const uint32_t topk = head.topk;
  const uint32_t rank = head.local[item.local];
  const uint32_t *arrival = tablesOf(c.plan, head, item.local).arrival +
                            (uint64_t{head.arrivalStart[item.source]} + item.first) * topk;
  bool isTouched = false;
  for (uint32_t at = lane; at < item.tokens * topk; at += 32) {
    const uint32_t slot = arrival[at];
    entry[at] = make_uint2(rank, slot);
    if (slot == noSlot) continue;
    isTouched = true;
    if ((slot & isLanding) != 0) landing[at / topk] = slot & ~isLanding;
  }
  if (!__any_sync(allLanes, isTouched)) return true;
  __syncwarp();
  writeOrigins(p.dispatch, head, item, entry, lane);
  const uint32_t dots = listDots(entry, item.tokens, topk, dot, lane);
  const uint32_t *flag = c.flags[rank] + launch.chunkStart[item.source] + item.chunk;
  if (!awaitFlagOfWarp(c, flag, launch.epoch, item.source, lane)) return false;
  const uint64_t *weights =
      p.pushed[rank] +
      pushedEntry(p.pushedEntries, launch.epoch, uint64_t{head.tokenStart[item.source]} + item.first, topk);
  runDots<T, E>(p, head, item, shared.remote[warp], dot, dots, landing,
                reinterpret_cast<const float *>(weights), 2, lane);
  if (lane == 0) {
    storeRelease(c.flags[item.source] + dotFlag(c, head, launch, item.source, rank, item.chunk),
                 launch.epoch);
  }
  __syncwarp();
  return true;
}

// Waits for the dot products of local tokens that other devices form. The warps of the launch share the
// chunks.
template <class T>
__device__ void awaitDots(const CombineGradientParams &p, const OnePassHead &head, const LaunchShared &launch,
                          uint32_t lane) {
  const OnePassCommon &c = p.common;
  const uint32_t warps = gridDim.x * T::warps;
  const uint32_t chunks = chunksOf(head.maxTokens, c.chunkTokens);
  for (uint32_t work = blockIdx.x * T::warps + threadIdx.x / 32; work < chunks * head.locals; work += warps) {
    const uint32_t local = work % head.locals;
    const uint32_t chunk = work / head.locals;
    const uint32_t rank = head.local[local];
    const uint32_t first = chunk * c.chunkTokens;
    if (first >= head.tokens[rank]) continue;
    const Place *places = tablesOf(c.plan, head, local).place + uint64_t{first} * head.topk;
    const uint32_t count = min(c.chunkTokens, head.tokens[rank] - first) * head.topk;
    forRemoteRanks(head, launch, places, count, lane, [&](uint32_t sender) {
      awaitFlag(c, c.flags[rank] + dotFlag(c, head, launch, rank, sender, chunk), launch.epoch, sender);
    });
  }
  __syncwarp();
}

// The item of a ticket: `kind` counts the items of one step. A chunk that a rank does not have has no tokens.
__device__ inline Item itemOf(const CombineGradientParams &p, const OnePassHead &head, uint32_t step,
                              uint32_t kind) {
  Item item{};
  item.chunk = step;
  if (kind < 2 * head.locals) {
    item.kind = kind < head.locals ? Kind::send : Kind::own;
    item.local = kind % head.locals;
    item.source = head.local[item.local];
  } else {
    const uint32_t pair = kind - 2 * head.locals;
    item.kind = Kind::fan;
    item.local = pair / head.remotes;
    item.source = head.remote[pair % head.remotes];
    if (step < p.lag) return item;
    item.chunk = step - p.lag;
  }
  findTokens(p.common, head, item.source, item);
  return item;
}

template <class T, class E>
__global__ void __launch_bounds__(T::warps * 32, 1)
    gradientKernel(const __grid_constant__ CombineGradientParams p) {
  extern __shared__ uint8_t memory[];
  Shared<T> &shared = *reinterpret_cast<Shared<T> *>(memory);
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  const OnePassCommon &c = p.common;
  const OnePassHead &head = *c.plan.head;
  uint32_t taken = takeTicket(&c.control->ticket[0], lane);
  RemoteOutputs &remote = shared.remote[warp];
  for (uint32_t rank = lane; rank < head.ranks; rank += 32) {
    remote.of[static_cast<uint32_t>(Output::rows)][rank] = p.dispatch.payload[0].to[rank];
    remote.of[static_cast<uint32_t>(Output::weightsGradient)][rank] =
        reinterpret_cast<uint8_t *>(p.weightsGradient[rank]);
  }
  if (!beginLaunch(c, shared.launch, &p.told)) return;
  const uint32_t perStep = head.locals * (2 + head.remotes);
  const uint32_t steps = chunksOf(head.maxTokens, c.chunkTokens) + p.lag;
  bool isReady = false;  // the other devices are known to be ready
  for (;;) {
    const uint32_t ticket = __shfl_sync(allLanes, taken, 0);
    if (ticket / perStep >= steps) break;
    taken = takeTicket(&c.control->ticket[0], lane);
    const Item item = itemOf(p, head, ticket / perStep, ticket % perStep);
    if (item.tokens == 0) continue;
    uint2 *entry = shared.entry[warp];
    if (item.kind != Kind::own && !isReady) {
      isReady = awaitAddresses(c, shared.launch.epoch, outputs, remote.of, lane);
      if (!isReady) break;
    }
    if (item.kind == Kind::send) {
      send(p, head, item, entry, remote, shared.launch, lane);
    } else if (item.kind == Kind::own) {
      own<T, E>(p, head, item, shared, warp, lane);
    } else if (!fan<T, E>(p, head, item, shared, warp, lane)) {
      break;
    }
  }
  fillPadding(p.dispatch,
              {blockIdx.x * uint64_t{blockDim.x} + threadIdx.x, gridDim.x * uint64_t{blockDim.x}});
  awaitDots<T>(p, head, shared.launch, lane);
  endLaunch(c, shared.launch);
}

}  // namespace fusco::cuda::one_pass_gradient
