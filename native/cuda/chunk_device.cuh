// What the work items of one-pass kernels have in common. An item belongs to a chunk: some consecutive tokens
// of one rank. A warp runs it.
#pragma once

#include "one_pass.hpp"
#include "one_pass_device.cuh"

namespace fusco::cuda {

// Sets the tokens of an item of chunk `item.chunk` of `rank`. Returns false if the rank has no such chunk.
template <class Item>
__device__ bool findTokens(const OnePassCommon &c, const OnePassHead &head, uint32_t rank, Item &item) {
  item.first = item.chunk * c.chunkTokens;
  if (item.first >= head.tokens[rank]) return false;
  item.tokens = min(c.chunkTokens, head.tokens[rank] - item.first);
  return true;
}

// A set of ranks that the lanes of a warp collect.
struct RankSet {
  uint32_t bits[2] = {0, 0};

  __device__ void add(uint32_t rank) { bits[rank / 32] |= 1u << rank % 32; }
  __device__ bool has(uint32_t rank) const { return (bits[rank / 32] >> rank % 32 & 1) != 0; }
  __device__ bool isEmpty() const { return (bits[0] | bits[1]) == 0; }
  // What any lane has added.
  __device__ void join() {
    bits[0] = __reduce_or_sync(~0u, bits[0]);
    bits[1] = __reduce_or_sync(~0u, bits[1]);
  }
};

// Sets flag number `flag` at each rank of a set. What any lane has stored to these ranks must be ordered
// before: by __syncwarp(), and by tmaWait() for stores of the TMA unit.
__device__ inline void setFlags(const OnePassCommon &c, const OnePassHead &head, const RankSet &ranks,
                                uint64_t flag, uint32_t epoch, uint32_t lane) {
  for (uint32_t rank = lane; rank < head.ranks; rank += 32) {
    if (ranks.has(rank)) storeRelease(c.flags[rank] + flag, epoch);
  }
}

// One lane waits for a flag of rank `peer` on behalf of the warp. Returns false on all lanes after a failure.
__device__ inline bool awaitFlagOfWarp(const OnePassCommon &c, const uint32_t *flag, uint32_t epoch,
                                       uint32_t peer, uint32_t lane) {
  const bool came = lane != 0 || awaitFlag(c, flag, epoch, peer);
  return __all_sync(~0u, came) != 0;
}

// Waits until the other devices are ready, and learns where their buffers are if they belong to other
// processes: to[buffer][device], in shared memory, which warps may share: all write the same addresses.
// Returns false on all lanes after a failure.
__device__ inline bool awaitAddresses(const OnePassCommon &c, uint32_t epoch, uint32_t buffers,
                                      uint8_t *(*to)[maxRanks], uint32_t lane) {
  if (!awaitReady(c, epoch, lane)) return false;
  if (c.hasProcesses == 0) return true;
  const auto &messages = c.inbox[c.device]->message[epoch % 2];
  for (uint32_t at = lane; at < buffers * c.devices; at += 32) {
    const uint32_t device = at % c.devices;
    if (device == c.device) continue;
    to[at / c.devices][device] = reinterpret_cast<uint8_t *>(messages[device].address[at / c.devices]);
  }
  __syncwarp();
  return true;
}

// The first entry of the weights of token number `token` of all ranks, in memory of pushed weights: two sets
// of [all tokens, topk], of `capacity` entries each, which calls use in turn.
__device__ inline uint64_t pushedEntry(uint64_t capacity, uint32_t epoch, uint64_t token, uint32_t topk) {
  return (epoch & 1) * capacity + token * topk;
}

}  // namespace fusco::cuda
