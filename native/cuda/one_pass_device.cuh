// What the one-pass kernels share: the beginning and the end of a launch, and tickets.
#pragma once

#include "signals_device.cuh"

namespace fusco::cuda {

// What a block keeps of its launch.
struct LaunchShared {
  uint32_t chunkStart[maxRanks];  // first chunk of each rank
  uint32_t localRanks[2];         // bit r: rank r is on this device
  uint32_t epoch;
  uint32_t hasFailed;  // before this launch
  uint32_t arrival;    // of this block among the launch's blocks

  __device__ bool isLocal(uint32_t rank) const { return (localRanks[rank / 32] >> rank % 32 & 1) != 0; }
};

// Tables of one local rank.
struct RankTables {
  const Place *place;
  const Place *send;
  const SumTerm *terms;
  const uint32_t *arrival;
  const uint32_t *arrivalRow;
};

__device__ inline RankTables tablesOf(const OnePassTables &plan, const OnePassHead &head, uint32_t local) {
  const uint64_t entry = uint64_t{head.localStart[local]} * head.topk;
  const uint64_t arrival = local * plan.arrivalTokens;
  return {plan.place + entry, plan.send + entry, plan.terms + entry, plan.arrival + arrival * head.topk,
          plan.arrivalRow + arrival};
}

__device__ inline uint32_t chunksOf(uint32_t tokens, uint32_t chunkTokens) {
  return (tokens + chunkTokens - 1) / chunkTokens;
}

// For a launch that may start before the one in front of it on the stream has ended: waits until that has
// ended and its stores are visible.
__device__ inline void awaitPrevious() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
// Allows the next launch to start, if it waits in this way.
__device__ inline void allowNext() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
// Both. Comes before the first access to memory other than parameters. Where launches start in order, it does
// nothing.
__device__ inline void awaitStreamOrder() {
  awaitPrevious();
  allowNext();
}

// Tells device `peer` that this device is ready for the call.
__device__ inline void tellReady(const OnePassCommon &c, uint32_t epoch, uint32_t peer,
                                 const ToldAddresses *told) {
  Inbox &inbox = *c.inbox[peer];
  if (c.hasProcesses != 0) {
    ReadyMessage &message = inbox.message[epoch % 2][c.device];
    message.digest = c.digest;
    for (uint32_t i = 0; told != nullptr && i < maxPeerBuffers; i++) message.address[i] = told->of[peer][i];
  }
  storeRelease(&inbox.ready[c.device], epoch);
}

// Waits until device `peer` is ready, and compares its call with this one. Returns false after a failure.
__device__ inline bool awaitPeer(const OnePassCommon &c, uint32_t epoch, uint32_t peer) {
  const Inbox &inbox = *c.inbox[c.device];
  if (!awaitFlag(c, &inbox.ready[peer], epoch, peer)) return false;
  if (c.hasProcesses == 0 || inbox.message[epoch % 2][peer].digest == c.digest) return true;
  fail(c, failureMismatch, epoch, only(peer));
  return false;
}

// Reads what a block needs of its launch, and publishes "ready" to the other devices. The block that arrives
// first publishes, so that the order in which blocks start does not matter. Ends with a barrier of the block.
// Returns false after a failure of an earlier call.
__device__ inline bool beginLaunch(const OnePassCommon &c, LaunchShared &shared, const ToldAddresses *told) {
  const OnePassHead &head = *c.plan.head;
  if (threadIdx.x == 0) {
    shared.epoch = *static_cast<volatile uint32_t *>(&c.control->epoch) + 1;
    shared.arrival = atomicAdd(&c.control->arrived, 1u);
    shared.hasFailed = *static_cast<volatile uint32_t *>(&c.control->failed);
  }
  if (threadIdx.x < 32) {
    const uint32_t lane = threadIdx.x;
    uint32_t chunks = 0;
    for (uint32_t base = 0; base < maxRanks; base += 32) {
      const uint32_t rank = base + lane;
      const bool exists = rank < head.ranks;
      const uint32_t tokens = exists ? head.tokens[rank] : 0;
      const uint32_t local = __ballot_sync(~0u, exists && head.localOf[rank] != noSlot);
      if (lane == 0) shared.localRanks[base / 32] = local;
      // Inclusive sums over the lanes.
      uint32_t chunkSum = chunksOf(tokens, c.chunkTokens);
      const uint32_t ownChunks = chunkSum;
#pragma unroll
      for (uint32_t distance = 1; distance < 32; distance *= 2) {
        const uint32_t chunk = __shfl_up_sync(~0u, chunkSum, distance);
        if (lane >= distance) chunkSum += chunk;
      }
      shared.chunkStart[rank] = chunks + chunkSum - ownChunks;
      chunks += __shfl_sync(~0u, chunkSum, 31);
      if (base + 32 >= head.ranks) break;
    }
  }
  __syncthreads();
  if (shared.hasFailed != 0) return false;
  if (shared.arrival == 0 && threadIdx.x < c.devices && threadIdx.x != c.device) {
    tellReady(c, shared.epoch, threadIdx.x, told);
  }
  return true;
}

// Waits until all other devices are ready. Called by a whole warp before its first store to another device.
// Returns false on all lanes after a failure.
__device__ inline bool awaitReady(const OnePassCommon &c, uint32_t epoch, uint32_t lane) {
  bool isReady = true;
  for (uint32_t peer = lane; peer < c.devices; peer += 32) {
    if (peer != c.device) isReady = awaitPeer(c, epoch, peer) && isReady;
  }
  return __all_sync(~0u, isReady) != 0;
}

// The last block to end resets the counters and completes the epoch. No launch ends before all devices have
// begun the same call, so that no device is ever more than one call ahead of another.
__device__ inline void endLaunch(const OnePassCommon &c, const LaunchShared &shared) {
  if (shared.arrival == 0 && threadIdx.x < 32) awaitReady(c, shared.epoch, threadIdx.x);
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  if (atomicAdd(&c.control->done, 1u) != gridDim.x - 1) return;
  __threadfence();
  c.control->done = 0;
  c.control->arrived = 0;
  c.control->ticket[0] = 0;
  c.control->ticket[1] = 0;
  *static_cast<volatile uint32_t *>(&c.control->epoch) = shared.epoch;
}

__device__ inline uint32_t takeTicket(uint32_t *counter, uint32_t lane) {
  return lane == 0 ? atomicAdd(counter, 1u) : 0;
}

}  // namespace fusco::cuda
