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
#pragma once

#include "one_pass_device.cuh"
#include "sum_device.cuh"
#include "tma_copy_device.cuh"

namespace fusco::cuda::one_pass_sum {

// What the kernel is compiled for. Programs that compare variants derive from it.
struct Tuning {
  static constexpr uint32_t warps = 12;
  static constexpr uint32_t stages = 4;
  static constexpr uint32_t stageBytes = sumSliceBytes;
  // (token, k) pairs that a warp turns into jobs at a time.
  static constexpr uint32_t jobBatch = 64;
};

// A row to add: where it is, its weight, the token of the chunk and the partial sum that it belongs to.
struct Job {
  unsigned long long address;
  float weight;
  uint32_t info;  // token | partial << 16 | jobIsLanding
};
constexpr uint32_t jobIsLanding = 1u << 31;

template <class T>
struct alignas(128) Shared {
  uint8_t stage[T::warps][T::stages][T::stageBytes];
  uint8_t result[T::warps][T::stageBytes];
  Job job[T::warps][T::jobBatch];
  uint64_t barrier[T::warps][T::stages];
  LaunchShared launch;
};

struct Item {
  bool isHome;
  uint32_t local;  // local index of the rank that sends, or of home
  uint32_t home;   // rank whose tokens these are
  uint32_t first;  // first token
  uint32_t tokens;
  uint32_t chunk;
  uint32_t slice;
};

__device__ inline const float *weightsOf(const SumParams &p, const OnePassHead &head, const Item &item,
                                         uint32_t epoch) {
  if (p.isWeighted == 0) return nullptr;
  const uint32_t rank = head.local[item.local];
  const uint64_t first = uint64_t{item.first} * head.topk;
  if (item.isHome) return p.weights[rank] + first;
  return p.pushed[p.common.device] + (epoch & 1) * p.pushedEntries +
         uint64_t{head.tokenStart[item.home]} * head.topk + first;
}

struct Warp {
  uint32_t index;
  uint32_t lane;
  uint32_t issued = 0;
  uint32_t consumed = 0;
  bool mayStore = false;  // other devices are known to be ready
  // A wait ended early: the item is finished without a meaning, so that nothing stays in flight.
  bool hasFailed = false;
};

// Sets a chunk's flag, once the partial sums that this warp has sent have arrived.
__device__ inline void setFlag(uint32_t *flag, uint32_t epoch, uint32_t lane) {
  if (lane == 0) {
    tmaWait();
    storeRelease(flag, epoch);
  }
  __syncwarp();
}

// Fills the warp's jobs from entries [begin, begin + T::jobBatch) of the chunk; returns their number. Instead
// of its weight a job has the entry in the chunk, or noSlot; setWeights() replaces it.
template <class T, bool isHome>
__device__ uint32_t listJobs(const SumParams &p, const OnePassHead &head, const Item &item, uint32_t begin,
                             uint64_t offset, uint64_t landingRowBytes, uint64_t landingOffset, Job *job,
                             uint32_t lane) {
  const RankTables tables = tablesOf(p.common.plan, head, item.local);
  const uint32_t rank = head.local[item.local];
  const uint32_t end = min(item.tokens * head.topk, begin + T::jobBatch);
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
__device__ inline uint32_t *pushFlag(const SumParams &p, uint32_t device, uint32_t rank, uint32_t block) {
  return p.pushedFlags[device] + rank * pushFlagsPerRank(p.pushedEntries) + block;
}

// Before the first partial sum of a chunk: weights of home must be here, and its landing rows free.
__device__ inline void awaitHome(const SumParams &p, const Item &item, Warp &warp, uint32_t epoch) {
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
__device__ inline void setWeights(const float *weights, Job *job, uint32_t jobs, uint32_t lane) {
  for (uint32_t at = lane; at < jobs; at += 32) {
    const uint32_t entry = __float_as_uint(job[at].weight);
    job[at].weight = weights == nullptr || entry == noSlot ? 1.0f : weights[entry];
  }
  __syncwarp();
}

template <class T, class E, class P, bool isHome>
__device__ void runItem(const SumParams &p, const OnePassHead &head, const Item &item, Shared<T> &shared,
                        Warp &warp, uint32_t epoch) {
  const uint32_t rank = head.local[item.local];
  const RankTables tables = tablesOf(p.common.plan, head, item.local);
  constexpr uint32_t perSlice = SliceOf<E, P, T::stageBytes>::elements;
  const uint64_t firstElement = uint64_t{item.slice} * perSlice;
  const uint64_t elements = p.rowBytes / E::bytes;
  const uint32_t count = static_cast<uint32_t>(min(elements - firstElement, uint64_t{perSlice}));
  const uint64_t landingRowBytes = elements * P::bytes;
  const float *weights = weightsOf(p, head, item, epoch);
  Job *job = shared.job[warp.index];
  uint8_t *result = shared.result[warp.index];
  // Flags at home: [ranks, chunks of home, slices].
  const uint64_t chunks = chunksOf(head.tokens[item.home], p.common.chunkTokens);
  auto flagOf = [&](uint64_t sender) { return (sender * chunks + item.chunk) * p.slices + item.slice; };
  Sums<E, P, isHome, perSlice> sums;
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
  for (uint32_t begin = 0; begin < entries; begin += T::jobBatch) {
    const uint32_t jobs = listJobs<T, isHome>(p, head, item, begin, firstElement * E::bytes, landingRowBytes,
                                              firstElement * P::bytes, job, warp.lane);
    uint32_t loads = 0;
    auto load = [&] {
      if (warp.lane == 0) {
        const uint32_t stage = warp.issued % T::stages;
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
      while (loads < T::stages && loads < jobs && (job[loads].info & jobIsLanding) == 0) load();
      bool came = true;
      for (uint32_t at = warp.lane; at < jobs; at += 32) {
        if ((job[at].info & jobIsLanding) == 0) continue;
        const uint32_t sender = job[at].info >> 16 & 0xff;
        came = awaitFlag(p.common, p.common.flags[rank] + flagOf(sender), epoch, sender) && came;
      }
      warp.hasFailed = __all_sync(~0u, came) == 0 || warp.hasFailed;
      tmaAcquireFence();
    }
    while (loads < T::stages && loads < jobs) load();
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
      const uint32_t stage = warp.consumed % T::stages;
      barrierWait(&shared.barrier[warp.index][stage], (warp.consumed / T::stages) & 1);
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
    setFlag(p.common.flags[item.home] + flagOf(rank), epoch, warp.lane);
  }
}

// Copies the weights of up to pushTokens tokens to another device and flags them there.
__device__ inline void push(const SumParams &p, const OnePassHead &head, uint32_t local, uint32_t device,
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

template <class T, class E, class P>
__global__ void __launch_bounds__(T::warps * 32, 1) sumKernel(const __grid_constant__ SumParams p) {
  extern __shared__ uint8_t memory[];
  Shared<T> &shared = *reinterpret_cast<Shared<T> *>(memory);
  Warp warp{threadIdx.x / 32, threadIdx.x % 32};
  if (threadIdx.x < T::warps * T::stages) barrierInit(&shared.barrier[0][0] + threadIdx.x);
  barrierInitFence();
  awaitStreamOrder();
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
      runItem<T, E, P, false>(p, head, item, shared, warp, epoch);
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
    runItem<T, E, P, true>(p, head, item, shared, warp, epoch);
  }
  tmaWait();
  endLaunch(c, shared.launch);
}

}  // namespace fusco::cuda::one_pass_sum
