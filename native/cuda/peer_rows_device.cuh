// Where the rows of a rank are that may be of another process.
#pragma once

#include "device_tables.hpp"

namespace fusco::cuda {

// Whether the launch must move nothing, because it does not know where others' buffers are.
__device__ inline bool isGivenUp(const PeerRows &peers) {
  return peers.addresses != nullptr && *peers.failed != 0;
}

// Buffer `index` of rank `peer`; `known` is its address if one process has all ranks.
template <class T>
__device__ T *bufferOf(const PeerRows &peers, uint32_t index, uint32_t peer, T *known) {
  return peers.addresses == nullptr ? known : reinterpret_cast<T *>(peers.addresses[index * maxRanks + peer]);
}

// The same where the kernel was compiled for one of the two cases.
template <bool hasPeers, class T>
__device__ T *bufferOf(const PeerRows &peers, uint32_t index, uint32_t peer, T *known) {
  if constexpr (!hasPeers) return known;
  return reinterpret_cast<T *>(peers.addresses[index * maxRanks + peer]);
}

__device__ inline uint8_t *rowsAt(const DispatchParams &p, const Payload &payload, Place place) {
  const auto index = static_cast<uint32_t>(&payload - p.payload);
  uint8_t *rows = bufferOf(p.peers, index, place.peer, payload.to[place.peer]);
  return rows + static_cast<uint64_t>(place.row) * payload.rowBytes;
}

}  // namespace fusco::cuda
