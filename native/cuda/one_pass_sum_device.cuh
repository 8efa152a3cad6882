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

#include "chunk_device.cuh"
#include "row_stages_device.cuh"
#include "sum_device.cuh"

namespace fusco::cuda::one_pass_sum {

// What the kernel is compiled for. Programs that compare variants derive from it.
struct Tuning {
  static constexpr uint32_t warps = 12;
  static constexpr uint32_t stages = 4;
  static constexpr uint32_t stageBytes = sumSliceBytes;
  // (token, k) pairs that a warp turns into jobs at a time.
  static constexpr uint32_t jobBatch = 64;
  // Pieces of 16 bytes that a lane reads from a stage before it adds them.
  static constexpr uint32_t ahead = 1;
  // At home a token's rows on this device are added first, and their partial sum waits in shared memory for
  // its turn, so that one set of sums is enough. Needs one rank per device, and topk of at most 32.
  static constexpr bool ownFirst = false;
};
// Where that is possible. Half the registers for sums leave room for more warps, which hide more of one
// another's latency.
struct OwnFirst : Tuning {
  static constexpr uint32_t warps = 16;
  static constexpr uint32_t stages = 2;
  static constexpr uint32_t ahead = 4;
  static constexpr bool ownFirst = true;
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
  uint32_t ticket;  // the first of the block's
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

struct Warp : StagedWarp {
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

// Entries that a warp lists at a time: whole tokens where their order changes.
template <class T>
__device__ uint32_t listStep(uint32_t topk) {
  return T::ownFirst ? 32 / topk * topk : 32;
}

// Where a lane's job comes in the list if, of each token, rows on this device come first. Tokens are those of
// consecutive lanes.
__device__ inline uint32_t ownFirstPlace(bool isUsed, bool isOwn, uint32_t token, uint32_t used,
                                         uint32_t lane) {
  constexpr uint32_t unused = 1u << 31;
  const uint32_t lower = (1u << lane) - 1;
  const uint32_t same = __match_any_sync(~0u, isUsed ? token : unused | lane);
  const uint32_t own = __ballot_sync(~0u, isUsed && isOwn) & same;
  const uint32_t before = __popc(used & ((1u << (__ffs(same) - 1)) - 1));
  return before + (isOwn ? __popc(own & lower) : __popc(own) + __popc(same & ~own & lower));
}

// Fills the warp's jobs from entries [begin, end) of the chunk; returns their number. Instead of its weight a
// job has the entry in the chunk, or noSlot; setWeights() replaces it.
template <class T, bool isHome>
__device__ uint32_t listJobs(const SumParams &p, const OnePassHead &head, const Item &item, uint32_t begin,
                             uint32_t end, uint64_t offset, uint64_t landingRowBytes, uint64_t landingOffset,
                             Job *job, uint32_t lane) {
  const RankTables tables = tablesOf(p.common.plan, head, item.local);
  const uint32_t rank = head.local[item.local];
  const uint32_t step = listStep<T>(head.topk);
  uint32_t jobs = 0;
  for (uint32_t base = begin; base < end; base += step) {
    const uint32_t at = base + lane;
    bool isUsed = lane < step && at < end;
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
    uint32_t place = __popc(used & ((1u << lane) - 1));
    if constexpr (T::ownFirst && isHome) {
      place = ownFirstPlace(isUsed, (found.info & jobIsLanding) == 0, found.info & 0xffff, used, lane);
    }
    if (isUsed) job[jobs + place] = found;
    jobs += __popc(used);
  }
  __syncwarp();
  return jobs;
}

// Without weights: before the first partial sum landing rows of other devices must be free.
__device__ inline void awaitLandingRows(const SumParams &p, Warp &warp, uint32_t epoch) {
  if (!warp.mayStore) warp.hasFailed = !awaitReady(p.common, epoch, warp.lane) || warp.hasFailed;
  warp.mayStore = true;
}

// Replaces entries by the weights that another rank has pushed for a chunk, each with the epoch in the upper
// half of its word. Where they are, home has begun the call: its landing rows are free.
__device__ inline void awaitWeights(const SumParams &p, const uint64_t *weights, Job *job, uint32_t jobs,
                                    uint32_t home, Warp &warp, uint32_t epoch) {
  bool came = true;
  for (uint32_t at = warp.lane; at < jobs; at += 32) {
    uint64_t word = 0;
    const uint64_t *address = weights + __float_as_uint(job[at].weight);
    came = awaitUntil(p.common, epoch, home,
                      [&] {
                        word = loadAcquire(address);
                        return static_cast<uint32_t>(word >> 32) == epoch;
                      }) &&
           came;
    job[at].weight = __uint_as_float(static_cast<uint32_t>(word));
  }
  warp.hasFailed = __all_sync(~0u, came) == 0 || warp.hasFailed;
  __syncwarp();
}

// Replaces entries by weights of this device; `weights` null: by 1.
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
  const float *weights = nullptr;
  if (isHome && p.isWeighted != 0) weights = p.weights[rank] + uint64_t{item.first} * head.topk;
  Job *job = shared.job[warp.index];
  uint8_t *result = shared.result[warp.index];
  // Flags at home: [ranks, chunks of home, slices].
  const uint64_t chunks = chunksOf(head.tokens[item.home], p.common.chunkTokens);
  auto flagOf = [&](uint64_t sender) { return (sender * chunks + item.chunk) * p.slices + item.slice; };
  constexpr bool ownFirst = isHome && T::ownFirst;
  Sums<E, P, isHome && !ownFirst, perSlice, T::ahead> sums;
  sums.clear();
  uint32_t current = ~0u;  // token | partial << 16 of the rows added last
  bool hasPartial = false;
  [[maybe_unused]] bool hasKept = false;
  bool hasSent = false;
  [[maybe_unused]] uint32_t landingRow = 0;  // of token `lane`, asked for before the rows to add
  if constexpr (!isHome) {
    if (warp.lane < item.tokens)
      landingRow = tables.arrivalRow[head.arrivalStart[item.home] + item.first + warp.lane];
  }
  // The partial sum of the rows on this device waits in `result`: each lane reads what it has written.
  [[maybe_unused]] auto keep = [&] {
    if (warp.lane == 0) tmaWaitRead();
    __syncwarp();
    sums.template store<P>(result, warp.lane, count);
    sums.clear();
    hasPartial = false;
    hasKept = true;
  };
  [[maybe_unused]] auto addKept = [&] {
    sums.addTotal(result, warp.lane, count);
    hasKept = false;
  };
  auto finish = [&] {
    if (current == ~0u) return;
    if constexpr (ownFirst) {
      if (hasPartial) keep();
      if (hasKept) addKept();
    } else if constexpr (isHome) {
      if (hasPartial) sums.fold();
    }
    [[maybe_unused]] uint32_t row = 0;
    if constexpr (!isHome) row = __shfl_sync(~0u, landingRow, current & 0xffff);
    if (warp.lane == 0) tmaWaitRead();
    __syncwarp();
    sums.template store<std::conditional_t<isHome, E, P>>(result, warp.lane, count);
    tmaSharedFence();
    __syncwarp();
    if (warp.lane == 0) {
      if constexpr (isHome) {
        const uint64_t token = item.first + (current & 0xffff);
        tmaStore(p.to[rank] + token * p.rowBytes + firstElement * E::bytes, result, count * E::bytes);
      } else {
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
  const uint32_t batch = T::jobBatch / listStep<T>(head.topk) * listStep<T>(head.topk);
  for (uint32_t begin = 0; begin < entries; begin += batch) {
    const uint32_t jobs =
        listJobs<T, isHome>(p, head, item, begin, min(entries, begin + batch), firstElement * E::bytes,
                            landingRowBytes, firstElement * P::bytes, job, warp.lane);
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
    const auto isLandingJob = [&](uint32_t at) { return (job[at].info & jobIsLanding) != 0; };
    // Whether the landing rows of the batch are here. Chunks without a row at a peer have no flag.
    [[maybe_unused]] auto lookForLanding = [&](bool waits) {
      bool came = true;
      for (uint32_t at = warp.lane; at < jobs; at += 32) {
        if (!isLandingJob(at)) continue;
        const uint32_t sender = job[at].info >> 16 & 0xff;
        const uint32_t *flag = p.common.flags[rank] + flagOf(sender);
        came = (waits ? awaitFlag(p.common, flag, epoch, sender) : isSet(flag, epoch)) && came;
      }
      const bool isHere = __all_sync(~0u, came) != 0;
      if (waits) warp.hasFailed = !isHere || warp.hasFailed;
      tmaAcquireFence();
      return isHere || waits;
    };
    [[maybe_unused]] bool mayLoad = true;  // landing rows
    if constexpr (isHome) {
      // Rows on this device do not wait.
      while (loads < T::stages && loads < jobs && !isLandingJob(loads)) load();
      if constexpr (ownFirst) setWeights(weights, job, jobs, warp.lane);
      mayLoad = lookForLanding(!ownFirst);
    }
    while (mayLoad && loads < T::stages && loads < jobs) load();
    if (!isHome && p.isWeighted != 0) {
      const uint64_t pushed =
          pushedEntry(p.pushedEntries, epoch, uint64_t{head.tokenStart[item.home]} + item.first, head.topk);
      awaitWeights(p, p.pushed[p.common.device] + pushed, job, jobs, item.home, warp, epoch);
    } else if (!ownFirst) {
      if (!isHome && jobs > 0) awaitLandingRows(p, warp, epoch);
      setWeights(weights, job, jobs, warp.lane);
    }
    for (uint32_t i = 0; i < jobs; i++) {
      if constexpr (ownFirst) {
        // Rows on this device have been added meanwhile.
        if (!mayLoad && loads == i) {
          mayLoad = lookForLanding(true);
          while (loads < i + T::stages && loads < jobs) load();
        }
      }
      const Job now = job[i];
      const uint32_t place = now.info & ~jobIsLanding;
      if (place != current) {
        if ((place & 0xffff) != (current & 0xffff)) {
          finish();
        } else if (isHome && !ownFirst && hasPartial) {
          if constexpr (isHome && !ownFirst) sums.fold();
          hasPartial = false;
        }
        current = place;
      }
      const uint32_t stage = awaitStage<T>(shared, warp);
      const bool isLanding = (now.info & jobIsLanding) != 0;
      if constexpr (ownFirst) {
        if (isLanding && hasPartial) keep();
        if (isLanding && hasKept && (place >> 16) > rank) addKept();
      }
      // One set of sums takes rows and, with the weight 1, partial sums of the same dtype.
      if (isHome && isLanding && !(ownFirst && std::is_same_v<E, P>)) {
        sums.addTotal(shared.stage[warp.index][stage], warp.lane, count);
      } else {
        sums.add(shared.stage[warp.index][stage], now.weight, warp.lane, count);
        hasPartial = !isLanding;
      }
      __syncwarp();
      if (loads < jobs && (mayLoad || !isLandingJob(loads))) load();
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

// Copies the weights of up to pushTokens tokens to another device.
__device__ inline void push(const SumParams &p, const OnePassHead &head, uint32_t local, uint32_t device,
                            uint32_t block, uint32_t epoch, uint32_t lane) {
  const uint32_t rank = head.local[local];
  const uint32_t first = block * pushTokens;
  if (first >= head.tokens[rank]) return;
  const uint32_t count = min(pushTokens, head.tokens[rank] - first) * head.topk;
  const float *from = p.weights[rank] + uint64_t{first} * head.topk;
  uint64_t *to = p.pushed[device] +
                 pushedEntry(p.pushedEntries, epoch, uint64_t{head.tokenStart[rank]} + first, head.topk);
  // More would cost the sums registers.
  constexpr uint32_t atOnce = 4;
  for (uint32_t base = lane; base < count; base += 32 * atOnce) {
    float value[atOnce];
#pragma unroll
    for (uint32_t i = 0; i < atOnce; i++) {
      if (base + 32 * i < count) value[i] = from[base + 32 * i];
    }
#pragma unroll
    for (uint32_t i = 0; i < atOnce; i++) {
      const uint32_t at = base + 32 * i;
      if (at < count) storeRelaxed(to + at, pushedWord(epoch, value[i]));
    }
  }
}

// Reads the parameters of the first ranks, so that they are in the SM's cache of constants later.
__device__ inline void touchParameters(const SumParams &p) {
  const uint32_t rank = threadIdx.x;
  if (rank >= p.common.devices) return;
  const auto touch = [](const void *value) { asm volatile("" ::"l"(value)); };
  touch(p.common.inbox[rank]);
  touch(p.common.flags[rank]);
  touch(p.from[rank]);
  touch(p.to[rank]);
  touch(p.landing[rank]);
  touch(p.weights[rank]);
  touch(p.pushed[rank]);
}

template <class T, class E, class P>
__global__ void __launch_bounds__(T::warps * 32, 1) sumKernel(const __grid_constant__ SumParams p) {
  extern __shared__ uint8_t memory[];
  Shared<T> &shared = *reinterpret_cast<Shared<T> *>(memory);
  Warp warp{{threadIdx.x / 32, threadIdx.x % 32}};
  initStages<T>(shared);
  const OnePassCommon &c = p.common;
  touchParameters(p);
  awaitStreamOrder();
  const OnePassHead &head = *c.plan.head;
  const bool sendFirst = p.senders >= gridDim.x;
  if (sendFirst && threadIdx.x == 0) shared.ticket = atomicAdd(&c.control->ticket[0], T::warps);
  if (!beginLaunch(c, shared.launch, nullptr)) return;
  uint32_t ticket = shared.ticket + warp.index;
  const uint32_t epoch = shared.launch.epoch;
  const uint32_t chunks = chunksOf(head.maxTokens, c.chunkTokens);
  const uint32_t pushBlocks = chunksOf(head.maxTokens, pushTokens);
  const uint32_t pushes = p.isWeighted == 0 ? 0 : head.locals * (c.devices - 1) * pushBlocks;
  const uint32_t pairs = head.locals * head.remotes;
  const uint32_t sends = pushes + chunks * pairs * p.slices;
  const uint32_t homes = chunks * head.locals * p.slices;
  // If all blocks send first, their first tickets need not wait for their number: a block takes them at once.
  bool isSender = sendFirst || shared.launch.arrival < p.senders;
  bool hasTicket = sendFirst;
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
      if (!findTokens(c, head, item.home, item)) continue;
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
    if (!findTokens(c, head, item.home, item)) continue;
    runItem<T, E, P, true>(p, head, item, shared, warp, epoch);
  }
  tmaWait();
  endLaunch(c, shared.launch);
}

}  // namespace fusco::cuda::one_pass_sum
