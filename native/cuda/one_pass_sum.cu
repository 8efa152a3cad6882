// Combine between GPUs in one pass. A warp takes work items by ticket:
//
// - push (local rank, device, tokens): copies weights of local tokens to another device.
// - send (home rank, chunk, slice): adds the rows of each token of the chunk on this rank, in ascending k,
// and
//   stores the partial sum to a landing row at home; then sets the chunk's flag.
// - home (local rank, chunk, slice): waits for the flags, and adds the partial sums in ascending rank order.
//
// Blocks that arrive first take push and send items until there are none left; the others begin with home
// items. All take tickets, so the first resident block alone could finish all sends. Sends wait for pushes of
// other devices only, and home items for sends of other devices only.
#include <type_traits>

#include "element_device.cuh"
#include "one_pass_device.cuh"
#include "tma_copy_device.cuh"

namespace fusco::cuda {

namespace {

constexpr uint32_t sumWarps = 12;
constexpr uint32_t sumStages = 4;
// Elements of a row that one work item adds: a multiple of 32 x 16 bytes of the row, in at most 3584 bytes of
// a stage.
template <class E, class P>
struct SliceOf {
  static constexpr uint32_t widest = E::bytes > P::bytes ? E::bytes : P::bytes;
  static constexpr uint32_t piece = 32 * 16 / E::bytes;
  static constexpr uint32_t elements = sumSliceBytes / widest / piece * piece;
};
// (token, k) pairs that a warp turns into jobs at a time.
constexpr uint32_t jobBatch = 64;

// A row to add: where it is, its weight, the token of the chunk and the partial sum that it belongs to.
struct Job {
  unsigned long long address;
  float weight;
  uint32_t info;  // token | partial << 16 | jobIsLanding
};
constexpr uint32_t jobIsLanding = 1u << 31;

struct alignas(128) SumShared {
  uint8_t stage[sumWarps][sumStages][sumSliceBytes];
  uint8_t result[sumWarps][sumSliceBytes];
  Job job[sumWarps][jobBatch];
  uint64_t barrier[sumWarps][sumStages];
  LaunchShared launch;
};
static_assert(sizeof(SumShared) <= 232448 - 1024, "a block needs more shared memory than an SM has");

struct Item {
  bool isHome;
  uint32_t local;  // local index of the rank that sends, or of home
  uint32_t home;   // rank whose tokens these are
  uint32_t first;  // first token
  uint32_t tokens;
  uint32_t chunk;
  uint32_t slice;
};

__device__ const float *weightsOf(const SumParams &p, const OnePassHead &head, const Item &item,
                                  uint32_t epoch) {
  if (p.isWeighted == 0) return nullptr;
  const uint32_t rank = head.local[item.local];
  const uint64_t first = uint64_t{item.first} * head.topk;
  if (item.isHome) return p.weights[rank] + first;
  return p.pushed[p.common.device] + (epoch & 1) * p.pushedEntries +
         uint64_t{head.tokenStart[item.home]} * head.topk + first;
}

// Two elements in 32 bits, or one of 32 bits.
template <class E>
struct Pack;

template <>
struct Pack<DeviceF32> {
  static constexpr uint32_t elements = 1;
  __device__ static void decode(uint32_t bits, float *out) { out[0] = __uint_as_float(bits); }
  __device__ static uint32_t encode(const float *in) { return DeviceF32::encode(in[0]); }
};

template <>
struct Pack<DeviceBf16> {
  static constexpr uint32_t elements = 2;
  __device__ static void decode(uint32_t bits, float *out) {
    out[0] = __uint_as_float(bits << 16);
    out[1] = __uint_as_float(bits & 0xffff0000u);
  }
  __device__ static uint32_t encode(const float *in) {
    const __nv_bfloat162 rounded = __floats2bfloat162_rn(in[0], in[1]);
    const uint32_t isNan = __hneu2_mask(rounded, rounded);
    uint32_t bits;
    memcpy(&bits, &rounded, 4);
    return (bits & ~isNan) | (0x7fc07fc0u & isNan);
  }
};

template <>
struct Pack<DeviceF16> {
  static constexpr uint32_t elements = 2;
  __device__ static void decode(uint32_t bits, float *out) {
    __half2 pair;
    memcpy(&pair, &bits, 4);
    const float2 both = __half22float2(pair);
    out[0] = both.x;
    out[1] = both.y;
  }
  __device__ static uint32_t encode(const float *in) {
    const __half2 rounded = __floats2half2_rn(in[0], in[1]);
    const uint32_t isNan = __hneu2_mask(rounded, rounded);
    uint32_t bits;
    memcpy(&bits, &rounded, 4);
    return (bits & ~isNan) | (0x7e007e00u & isNan);
  }
};

// Sums of one warp: a partial sum and, at home, the total. `E` is the element of rows, `P` that of partial
// sums. A lane has the elements of 16 bytes of a row in each of `vectors` pieces of the slice.
template <class E, class P, bool isHome>
struct Sums {
  static constexpr uint32_t perLane = 16 / E::bytes;
  static constexpr uint32_t vectors = SliceOf<E, P>::elements / (32 * perLane);
  float partial[vectors * perLane];
  float total[isHome ? vectors * perLane : 1];

  __device__ void clear() {
#pragma unroll
    for (uint32_t i = 0; i < vectors * perLane; i++) {
      partial[i] = 0.0f;
      if constexpr (isHome) total[i] = 0.0f;
    }
  }
  // Calls f(index of the first element, 32 bits) for all of the lane's elements; a stage or result holds
  // `count` elements of dtype Q.
  template <class Q, class Bytes, class F>
  __device__ static void forAll(Bytes *bytes, uint32_t lane, uint32_t count, F f) {
    constexpr uint32_t units = perLane * Q::bytes / 16;
    constexpr uint32_t per = Pack<Q>::elements;
#pragma unroll
    for (uint32_t v = 0; v < vectors; v++) {
      const uint32_t element = (v * 32 + lane) * perLane;
      if (element >= count) break;
#pragma unroll
      for (uint32_t unit = 0; unit < units; unit++) {
        f(v * perLane + unit * 4 * per, reinterpret_cast<uint4 *>(bytes + element * Q::bytes)[unit]);
      }
    }
  }
  // sum[first, ...] = sum[first, ...] + weight * row
  template <class Q>
  __device__ static void accumulate(float *sum, uint4 row, float weight, bool isWeighted) {
    constexpr uint32_t per = Pack<Q>::elements;
    const uint32_t words[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
    for (uint32_t word = 0; word < 4; word++) {
      float values[per];
      Pack<Q>::decode(words[word], values);
#pragma unroll
      for (uint32_t i = 0; i < per; i++) {
        float &to = sum[word * per + i];
        to = to + (isWeighted ? weight * values[i] : values[i]);
      }
    }
  }
  __device__ void add(uint8_t *stage, float weight, uint32_t lane, uint32_t count) {
    forAll<E>(stage, lane, count,
              [&](uint32_t first, const uint4 &row) { accumulate<E>(partial + first, row, weight, true); });
  }
  // Adds a finished partial sum.
  __device__ void addTotal(uint8_t *stage, uint32_t lane, uint32_t count) {
    forAll<P>(stage, lane, count,
              [&](uint32_t first, const uint4 &row) { accumulate<P>(total + first, row, 1.0f, false); });
  }
  // Rounds the partial sum, adds it to the total, and starts the next one.
  __device__ void fold() {
    constexpr uint32_t per = Pack<P>::elements;
#pragma unroll
    for (uint32_t at = 0; at < vectors * perLane; at += per) {
      float rounded[per];
      Pack<P>::decode(Pack<P>::encode(partial + at), rounded);
#pragma unroll
      for (uint32_t i = 0; i < per; i++) {
        total[at + i] = total[at + i] + rounded[i];
        partial[at + i] = 0.0f;
      }
    }
  }
  // Stores the total at home, and the partial sum elsewhere.
  __device__ void store(uint8_t *result, uint32_t lane, uint32_t count) const {
    using Q = std::conditional_t<isHome, E, P>;
    constexpr uint32_t per = Pack<Q>::elements;
    const float *from = isHome ? total : partial;
    forAll<Q>(result, lane, count, [&](uint32_t first, uint4 &to) {
      to = make_uint4(Pack<Q>::encode(from + first), Pack<Q>::encode(from + first + per),
                      Pack<Q>::encode(from + first + 2 * per), Pack<Q>::encode(from + first + 3 * per));
    });
  }
};

struct Warp {
  uint32_t index;
  uint32_t lane;
  uint32_t issued = 0;
  uint32_t consumed = 0;
  bool mayStore = false;  // other devices are known to be ready
  // A wait ended early: the item is finished without a meaning, so that nothing stays in flight.
  bool hasFailed = false;
};

// Fills the warp's jobs from entries [begin, begin + jobBatch) of the chunk; returns their number. Instead of
// its weight a job has the entry in the chunk, or noSlot; setWeights() replaces it.
template <bool isHome>
__device__ uint32_t listJobs(const SumParams &p, const OnePassHead &head, const Item &item, uint32_t begin,
                             uint64_t offset, uint64_t landingRowBytes, uint64_t landingOffset, Job *job,
                             uint32_t lane) {
  const RankTables tables = tablesOf(p.common.plan, head, item.local);
  const uint32_t rank = head.local[item.local];
  const uint32_t end = min(item.tokens * head.topk, begin + jobBatch);
  uint32_t jobs = 0;
  for (uint32_t base = begin; base < end; base += 32) {
    const uint32_t at = base + lane;
    bool isUsed = at < end;
    Job found{};
    if (isUsed) {
      const uint32_t token = at / head.topk;
      if constexpr (isHome) {
        const SumTerm term = tables.terms[uint64_t{item.first} * head.topk + at];
        isUsed = (term.info & termIsUsed) != 0;
        const uint32_t from = term.info >> termRankShift & 0xff;
        const bool landed = (term.info & termIsLanding) != 0;
        found.address = reinterpret_cast<unsigned long long>(
            landed ? p.landing[rank] + term.row * landingRowBytes + landingOffset
                   : p.from[from] + term.row * p.rowBytes + offset);
        found.weight = __uint_as_float(landed ? noSlot : token * head.topk + (term.info & termK));
        found.info = token | from << 16 | (landed ? jobIsLanding : 0);
      } else {
        const uint64_t arrived = uint64_t{head.arrivalStart[item.home] + item.first} * head.topk + at;
        const uint32_t slot = tables.arrival[arrived];
        isUsed = slot != noSlot;
        found.address = reinterpret_cast<unsigned long long>(
            p.from[rank] + uint64_t{slot & ~isLanding} * p.rowBytes + offset);
        found.weight = __uint_as_float(at);
        found.info = token;
      }
    }
    const uint32_t used = __ballot_sync(~0u, isUsed);
    if (isUsed) job[jobs + __popc(used & ((1u << lane) - 1))] = found;
    jobs += __popc(used);
  }
  __syncwarp();
  return jobs;
}

// At `device`: the flag of a block of the weights of `rank`.
__device__ uint32_t *pushFlag(const SumParams &p, uint32_t device, uint32_t rank, uint32_t block) {
  return p.pushedFlags[device] + rank * pushFlagsPerRank(p.pushedEntries) + block;
}

// Before the first partial sum of a chunk: weights of home must be here, and its landing rows free.
__device__ void awaitHome(const SumParams &p, const Item &item, Warp &warp, uint32_t epoch) {
  const OnePassCommon &c = p.common;
  if (p.isWeighted == 0) {
    if (!warp.mayStore) warp.hasFailed = !awaitReady(c, epoch, warp.lane) || warp.hasFailed;
    warp.mayStore = true;
    return;
  }
  const uint32_t block = item.first / pushTokens;
  const uint32_t blocks = (item.first + item.tokens - 1) / pushTokens - block + 1;
  const uint32_t *flags = pushFlag(p, c.device, item.home, block);
  bool came = true;
  for (uint32_t i = warp.lane; i < blocks; i += 32) came = awaitFlag(c, flags + i, epoch, item.home) && came;
  warp.hasFailed = __all_sync(~0u, came) == 0 || warp.hasFailed;
}

// Replaces entries by weights, which may arrive after the rows have been asked for.
__device__ void setWeights(const float *weights, Job *job, uint32_t jobs, uint32_t lane) {
  for (uint32_t at = lane; at < jobs; at += 32) {
    const uint32_t entry = __float_as_uint(job[at].weight);
    job[at].weight = weights == nullptr || entry == noSlot ? 1.0f : weights[entry];
  }
  __syncwarp();
}

template <class E, class P, bool isHome>
__device__ void runItem(const SumParams &p, const OnePassHead &head, const Item &item, SumShared &shared,
                        Warp &warp, uint32_t epoch) {
  const uint32_t rank = head.local[item.local];
  const RankTables tables = tablesOf(p.common.plan, head, item.local);
  const uint64_t firstElement = uint64_t{item.slice} * SliceOf<E, P>::elements;
  const uint64_t elements = p.rowBytes / E::bytes;
  const uint32_t count =
      static_cast<uint32_t>(min(elements - firstElement, uint64_t{SliceOf<E, P>::elements}));
  const uint64_t landingRowBytes = elements * P::bytes;
  const float *weights = weightsOf(p, head, item, epoch);
  Job *job = shared.job[warp.index];
  uint8_t *result = shared.result[warp.index];
  // Flags at home: [ranks, chunks of home, slices].
  const uint64_t chunks = chunksOf(head.tokens[item.home], p.common.chunkTokens);
  auto flagOf = [&](uint64_t sender) { return (sender * chunks + item.chunk) * p.slices + item.slice; };
  Sums<E, P, isHome> sums;
  sums.clear();
  uint32_t current = ~0u;  // token | partial << 16 of the rows added last
  bool hasPartial = false;
  bool hasSent = false;
  bool mayAdd = false;
  auto finish = [&] {
    if (current == ~0u) return;
    if constexpr (isHome) {
      if (hasPartial) sums.fold();
    }
    if (warp.lane == 0) tmaWaitRead();
    __syncwarp();
    sums.store(result, warp.lane, count);
    tmaSharedFence();
    __syncwarp();
    if (warp.lane == 0) {
      const uint64_t token = item.first + (current & 0xffff);
      if constexpr (isHome) {
        tmaStore(p.to[rank] + token * p.rowBytes + firstElement * E::bytes, result, count * E::bytes);
      } else {
        const uint64_t row = tables.arrivalRow[head.arrivalStart[item.home] + token];
        tmaStore(p.landing[item.home] + row * landingRowBytes + firstElement * P::bytes, result,
                 count * P::bytes);
      }
      tmaCommit();
    }
    hasSent = true;
    sums.clear();
    hasPartial = false;
  };
  const uint32_t entries = item.tokens * head.topk;
  for (uint32_t begin = 0; begin < entries; begin += jobBatch) {
    const uint32_t jobs = listJobs<isHome>(p, head, item, begin, firstElement * E::bytes, landingRowBytes,
                                           firstElement * P::bytes, job, warp.lane);
    uint32_t loads = 0;
    auto load = [&] {
      if (warp.lane == 0) {
        const uint32_t stage = warp.issued % sumStages;
        const bool isLanding = (job[loads].info & jobIsLanding) != 0;
        const uint32_t bytes = count * (isLanding ? P::bytes : E::bytes);
        barrierExpect(&shared.barrier[warp.index][stage], bytes);
        tmaLoad(shared.stage[warp.index][stage], reinterpret_cast<const uint8_t *>(job[loads].address), bytes,
                &shared.barrier[warp.index][stage]);
      }
      warp.issued++;
      loads++;
    };
    if constexpr (isHome) {
      // Rows on this device do not wait. Chunks without a row at a peer have no flag.
      while (loads < sumStages && loads < jobs && (job[loads].info & jobIsLanding) == 0) load();
      bool came = true;
      for (uint32_t at = warp.lane; at < jobs; at += 32) {
        if ((job[at].info & jobIsLanding) == 0) continue;
        const uint32_t sender = job[at].info >> 16 & 0xff;
        came = awaitFlag(p.common, p.common.flags[rank] + flagOf(sender), epoch, sender) && came;
      }
      warp.hasFailed = __all_sync(~0u, came) == 0 || warp.hasFailed;
      tmaAcquireFence();
    }
    while (loads < sumStages && loads < jobs) load();
    if constexpr (!isHome) {
      if (jobs > 0 && !mayAdd) awaitHome(p, item, warp, epoch);
      mayAdd = mayAdd || jobs > 0;
    }
    setWeights(weights, job, jobs, warp.lane);
    for (uint32_t i = 0; i < jobs; i++) {
      const Job now = job[i];
      const uint32_t place = now.info & ~jobIsLanding;
      if (place != current) {
        if ((place & 0xffff) != (current & 0xffff)) {
          finish();
        } else if (isHome && hasPartial) {
          if constexpr (isHome) sums.fold();
          hasPartial = false;
        }
        current = place;
      }
      const uint32_t stage = warp.consumed % sumStages;
      barrierWait(&shared.barrier[warp.index][stage], (warp.consumed / sumStages) & 1);
      warp.consumed++;
      if ((now.info & jobIsLanding) != 0) {
        if constexpr (isHome) sums.addTotal(shared.stage[warp.index][stage], warp.lane, count);
      } else {
        sums.add(shared.stage[warp.index][stage], now.weight, warp.lane, count);
        hasPartial = true;
      }
      __syncwarp();
      if (loads < jobs) load();
    }
    __syncwarp();
  }
  finish();
  if constexpr (isHome) {
    // Tokens without rows become +0.
    for (uint32_t token = 0; token < item.tokens; token++) {
      const SumTerm term = tables.terms[uint64_t{item.first + token} * head.topk];
      if ((term.info & termIsUsed) != 0) continue;
      uint4 *to = reinterpret_cast<uint4 *>(p.to[rank] + uint64_t{item.first + token} * p.rowBytes +
                                            firstElement * E::bytes);
      for (uint32_t at = warp.lane; at < count * E::bytes / 16; at += 32) to[at] = make_uint4(0, 0, 0, 0);
    }
  } else if (hasSent) {
    if (warp.lane == 0) {
      tmaWait();
      storeRelease(p.common.flags[item.home] + flagOf(rank), epoch);
    }
    __syncwarp();
  }
}

// Copies the weights of up to pushTokens tokens to another device and flags them there.
__device__ void push(const SumParams &p, const OnePassHead &head, uint32_t local, uint32_t device,
                     uint32_t block, uint32_t epoch, uint32_t lane) {
  const uint32_t rank = head.local[local];
  const uint32_t first = block * pushTokens;
  if (first >= head.tokens[rank]) return;
  const uint32_t count = min(pushTokens, head.tokens[rank] - first) * head.topk;
  const float *from = p.weights[rank] + uint64_t{first} * head.topk;
  float *to =
      p.pushed[device] + (epoch & 1) * p.pushedEntries + uint64_t{head.tokenStart[rank] + first} * head.topk;
  for (uint32_t at = lane; at < count; at += 32) to[at] = from[at];
  __syncwarp();
  if (lane == 0) storeRelease(pushFlag(p, device, rank, block), epoch);
}

template <class E, class P>
__global__ void __launch_bounds__(sumWarps * 32, 1) sumKernel(const __grid_constant__ SumParams p) {
  extern __shared__ uint8_t memory[];
  SumShared &shared = *reinterpret_cast<SumShared *>(memory);
  Warp warp{threadIdx.x / 32, threadIdx.x % 32};
  if (threadIdx.x < sumWarps * sumStages) barrierInit(&shared.barrier[0][0] + threadIdx.x);
  barrierInitFence();
  const OnePassCommon &c = p.common;
  const OnePassHead &head = *c.plan.head;
  const bool sendFirst = p.senders >= gridDim.x;
  uint32_t ticket = sendFirst ? takeTicket(&c.control->ticket[0], warp.lane) : 0;
  if (!beginLaunch(c, shared.launch, nullptr)) return;
  const uint32_t epoch = shared.launch.epoch;
  const uint32_t chunks = chunksOf(head.maxTokens, c.chunkTokens);
  const uint32_t pushBlocks = chunksOf(head.maxTokens, pushTokens);
  const uint32_t pushes = p.isWeighted == 0 ? 0 : head.locals * (c.devices - 1) * pushBlocks;
  const uint32_t pairs = head.locals * head.remotes;
  const uint32_t sends = pushes + chunks * pairs * p.slices;
  const uint32_t homes = chunks * head.locals * p.slices;
  // If all blocks send first, their first ticket need not wait for their number.
  bool isSender = sendFirst || shared.launch.arrival < p.senders;
  bool hasTicket = sendFirst;
  ticket = __shfl_sync(~0u, ticket, 0);
  while (!warp.hasFailed) {
    if (isSender) {
      if (!hasTicket) ticket = __shfl_sync(~0u, takeTicket(&c.control->ticket[0], warp.lane), 0);
      hasTicket = false;
      if (ticket >= sends) isSender = false;
    }
    if (isSender && ticket < pushes) {
      const uint32_t block = ticket / (head.locals * (c.devices - 1));
      const uint32_t rest = ticket % (head.locals * (c.devices - 1));
      const uint32_t local = rest / (c.devices - 1);
      const uint32_t device = (c.device + 1 + rest % (c.devices - 1)) % c.devices;
      push(p, head, local, device, block, epoch, warp.lane);
      continue;
    }
    Item item{};
    if (isSender) {
      const uint32_t work = ticket - pushes;
      item.slice = work % p.slices;
      const uint32_t pair = work / p.slices % pairs;
      item.chunk = work / p.slices / pairs;
      item.local = pair / head.remotes;
      item.home = head.remote[pair % head.remotes];
      item.first = item.chunk * c.chunkTokens;
      if (item.first >= head.tokens[item.home]) continue;
      item.tokens = min(c.chunkTokens, head.tokens[item.home] - item.first);
      runItem<E, P, false>(p, head, item, shared, warp, epoch);
      continue;
    }
    const uint32_t home = __shfl_sync(~0u, takeTicket(&c.control->ticket[1], warp.lane), 0);
    if (home >= homes) break;
    item.isHome = true;
    item.slice = home % p.slices;
    item.local = home / p.slices % head.locals;
    item.chunk = home / p.slices / head.locals;
    item.home = head.local[item.local];
    item.first = item.chunk * c.chunkTokens;
    if (item.first >= head.tokens[item.home]) continue;
    item.tokens = min(c.chunkTokens, head.tokens[item.home] - item.first);
    runItem<E, P, true>(p, head, item, shared, warp, epoch);
  }
  tmaWait();
  endLaunch(c, shared.launch);
}

template <class E, class P>
cudaError_t launch(SumParams &params, uint32_t blocks, cudaStream_t stream) {
  const uint64_t elements = params.rowBytes / E::bytes;
  params.slices = static_cast<uint32_t>((elements + SliceOf<E, P>::elements - 1) / SliceOf<E, P>::elements);
  const auto kernel = sumKernel<E, P>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(SumShared));
  if (error != cudaSuccess) return error;
  kernel<<<blocks, sumWarps * 32, sizeof(SumShared), stream>>>(params);
  return cudaGetLastError();
}

// Calls f(element of rows, element of partial sums) for the dtype.
template <class F>
auto withElements(fusco_dtype dtype, bool keepsPartials, F f) {
  if (dtype == FUSCO_DTYPE_F32) return f(DeviceF32{}, DeviceF32{});
  if (dtype == FUSCO_DTYPE_F16)
    return keepsPartials ? f(DeviceF16{}, DeviceF32{}) : f(DeviceF16{}, DeviceF16{});
  return keepsPartials ? f(DeviceBf16{}, DeviceF32{}) : f(DeviceBf16{}, DeviceBf16{});
}

}  // namespace

cudaError_t launchSum(SumParams params, fusco_dtype dtype, bool keepsPartials, uint32_t blocks,
                      cudaStream_t stream) {
  return withElements(dtype, keepsPartials, [&](auto row, auto partial) {
    return launch<decltype(row), decltype(partial)>(params, blocks, stream);
  });
}

uint32_t sumSliceElements(fusco_dtype dtype, bool keepsPartials) {
  return withElements(dtype, keepsPartials, [](auto row, auto partial) -> uint32_t {
    return SliceOf<decltype(row), decltype(partial)>::elements;
  });
}

}  // namespace fusco::cuda
