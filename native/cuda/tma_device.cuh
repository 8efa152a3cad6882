// Dispatch by TMA, the bulk-copy unit of each SM (cp.async.bulk): it loads a tile of rows into shared memory
// and stores every row from there to all of its slots. Threads move no payload bytes.
#pragma once

#include "element_device.cuh"
#include "tma_copy_device.cuh"

namespace fusco::cuda {

// Rows of a rank that one block moves at a time.
struct Tile {
  uint32_t local;  // index of the rank
  uint32_t token;  // over all local ranks
  uint32_t rows;
};

// Shared memory of a block, in front of its row buffers.
struct TileState {
  uint64_t arrived;
  uint32_t tileStart[maxRanks + 1];   // first tile of each local rank, last = tiles
  uint32_t tokenStart[maxRanks + 1];  // copy of the plan's head, which is in global memory
  uint32_t rankOf[maxRanks];
  uint32_t localRanks;
  uint32_t topk;
  uint32_t kept;
  // A prefix of these two for the tile at hand: keys first, then where each store goes and which row it is.
  uint64_t key[maxTileEntries];
  uint8_t *to[maxTileEntries];
  uint8_t row[maxTileEntries];
};

// By all threads of a block.
__device__ inline void numberTiles(TileState &state, const DevicePlanHead *head, uint32_t rows) {
  const uint32_t ranks = head->localRanks;
  for (uint32_t i = threadIdx.x; i <= ranks; i += blockDim.x) {
    state.tokenStart[i] = head->tokenStart[i];
    if (i < ranks) state.rankOf[i] = head->rankOf[i];
  }
  if (threadIdx.x == 0) {
    state.localRanks = ranks;
    state.topk = head->topk;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t tiles = 0;
    for (uint32_t i = 0; i < ranks; i++) {
      state.tileStart[i] = tiles;
      tiles += (state.tokenStart[i + 1] - state.tokenStart[i] + rows - 1) / rows;
    }
    state.tileStart[ranks] = tiles;
  }
}

__device__ inline Tile tileAt(const TileState &state, uint32_t rows, uint32_t number) {
  uint32_t local = 0;
  while (state.tileStart[local + 1] <= number) local++;
  const uint32_t first = (number - state.tileStart[local]) * rows;
  const uint32_t tokens = state.tokenStart[local + 1] - state.tokenStart[local];
  return {local, state.tokenStart[local] + first, min(rows, tokens - first)};
}

// One warp moves all tiles of a block, round by round. In a round all blocks of the GPU first load their rows
// and then store them: the memory bus sees reads and writes in turns of megabytes, which costs less than
// mixing them.
class TileMover {
 public:
  __device__ TileMover(const DispatchParams &params, TileState &state, uint8_t *rows)
      : p_(params), state_(state), rows_(rows), lane_(threadIdx.x % warpLanes), policy_(evictFirstPolicy()) {}

  __device__ void movePayload(uint32_t index) {
    payload_ = &p_.payload[index];
    chunkBytes_ = p_.chunkBytes[index];
    chunks_ = static_cast<uint32_t>((payload_->rowBytes + chunkBytes_ - 1) / chunkBytes_);
    const uint32_t pieces = state_.tileStart[state_.localRanks] * chunks_;
    const uint32_t rounds = (pieces + gridDim.x - 1) / gridDim.x;
    uint32_t number = blockIdx.x;
    for (uint32_t round = 0; round < rounds; round++, number += gridDim.x) {
      const bool has = number < pieces;
      if (has) load(pieceAt(number));
      arrive();
      if (has) {
        if (round == 0) listStores(pieceAt(number));
        barrierWait(&state_.arrived, parity_);
        parity_ ^= 1;
      }
      store(has ? pieceAt(number).bytes : 0, has ? state_.kept : 0);
      // While the stores are on their way.
      if (number + gridDim.x < pieces) listStores(pieceAt(number + gridDim.x));
      tmaWaitRead();
      __syncwarp();
    }
    tmaWait();
    __syncwarp();
  }

 private:
  // A tile, or a piece of its rows where they are long.
  struct Piece {
    Tile tile;
    uint64_t offset;
    uint32_t bytes;
  };

  __device__ Piece pieceAt(uint32_t number) const {
    const uint64_t offset = static_cast<uint64_t>(number % chunks_) * chunkBytes_;
    const uint64_t rest = payload_->rowBytes - offset;
    return {tileAt(state_, p_.tiling.rows, number / chunks_), offset,
            static_cast<uint32_t>(rest < chunkBytes_ ? rest : chunkBytes_)};
  }

  __device__ void load(const Piece &piece) {
    if (lane_ == 0) barrierExpect(&state_.arrived, piece.bytes * piece.tile.rows);
    __syncwarp();
    if (lane_ >= piece.tile.rows) return;
    const uint64_t row = piece.tile.token - state_.tokenStart[piece.tile.local] + lane_;
    const uint8_t *from = payload_->from[state_.rankOf[piece.tile.local]];
    tmaLoad(rows_ + lane_ * piece.bytes, from + row * payload_->rowBytes + piece.offset, piece.bytes,
            &state_.arrived);
  }

  // Lists the stores of a tile in state_.to and state_.row, in the order in which they are issued: by
  // destination rank and slot, so that blocks write to nearby addresses at the same time.
  __device__ void listStores(const Piece &piece) {
    const uint32_t entries = piece.tile.rows * state_.topk;
    const uint64_t first = static_cast<uint64_t>(piece.tile.token) * state_.topk;
    const Place *places = p_.plan.place + first;
    __syncwarp();
    if (p_.plan.head->tileTokens == p_.tiling.rows) {
      listByPlan(piece, places, p_.plan.order + first, entries);
    } else {
      listSorted(piece, places, entries);
    }
    __syncwarp();
  }

  __device__ void listByPlan(const Piece &piece, const Place *places, const uint8_t *order,
                             uint32_t entries) {
    uint32_t kept = 0;
    for (uint32_t base = 0; base < entries; base += warpLanes) {
      const uint32_t e = base + lane_ < entries ? order[base + lane_] : entries;
      const Place place = e < entries ? places[e] : Place{0, -1};
      const uint32_t real = __ballot_sync(allLanes, place.row >= 0);
      if (place.row >= 0) put(piece, kept + __popc(real & ((1u << lane_) - 1)), e, place);
      kept += __popc(real);
    }
    if (lane_ == 0) state_.kept = kept;
  }

  __device__ void listSorted(const Piece &piece, const Place *places, uint32_t entries) {
    constexpr uint64_t none = ~uint64_t{0};
    uint32_t kept = 0;
    for (uint32_t base = 0; base < entries; base += warpLanes) {
      const uint32_t e = base + lane_;
      const Place place = e < entries ? places[e] : Place{0, -1};
      const uint64_t key = static_cast<uint64_t>(place.peer) << 32 | static_cast<uint32_t>(place.row);
      if (e < entries) state_.key[e] = place.row < 0 ? none : key;
      kept += __popc(__ballot_sync(allLanes, place.row >= 0));
    }
    if (lane_ == 0) state_.kept = kept;
    __syncwarp();
    for (uint32_t e = lane_; e < entries; e += warpLanes) {
      const uint64_t key = state_.key[e];
      if (key == none) continue;
      uint32_t at = 0;
      for (uint32_t other = 0; other < entries; other++) at += state_.key[other] < key ? 1 : 0;
      put(piece, at, e, {static_cast<uint32_t>(key >> 32), static_cast<int32_t>(key)});
    }
  }

  __device__ void put(const Piece &piece, uint32_t at, uint32_t entry, Place place) {
    state_.to[at] =
        payload_->to[place.peer] + static_cast<uint64_t>(place.row) * payload_->rowBytes + piece.offset;
    state_.row[at] = static_cast<uint8_t>(entry / state_.topk);
  }

  // In a few groups; blocks wait for one another between groups as well, so that they keep storing to nearby
  // addresses.
  __device__ void store(uint32_t bytes, uint32_t kept) {
    const uint32_t groups = p_.tiling.groups;
    for (uint32_t group = 0; group < groups; group++) {
      if (group > 1) tmaWaitRead<1>();
      if (group > 0) {
        __syncwarp();
        arrive();
      }
      awaitAll();
      const uint32_t end = kept * (group + 1) / groups;
      for (uint32_t i = kept * group / groups + lane_; i < end; i += warpLanes) {
        tmaStore(state_.to[i], rows_ + state_.row[i] * bytes, bytes, policy_);
      }
      tmaCommit();
    }
    __syncwarp();
  }

  __device__ void arrive() {
    arrivals_++;
    if (lane_ == 0) atomicAdd(&p_.barrier[0], 1u);
  }

  // Until all blocks have come this far. It is about speed alone: where they do not all run at once, or
  // somebody else uses the GPU, a block goes on after a while, and nothing can hang.
  __device__ void awaitAll() {
    if (lane_ == 0) {
      constexpr long long patience = 100000;  // cycles, about 50 us
      const uint32_t goal = arrivals_ * gridDim.x;
      const long long start = clock64();
      while (*reinterpret_cast<volatile uint32_t *>(&p_.barrier[0]) < goal && clock64() - start < patience) {
      }
    }
    __syncwarp();
  }

  const DispatchParams &p_;
  TileState &state_;
  uint8_t *rows_;
  uint32_t lane_;
  uint64_t policy_;
  const Payload *payload_ = nullptr;
  uint32_t chunkBytes_ = 0;
  uint32_t chunks_ = 0;
  uint32_t arrivals_ = 0;
  uint32_t parity_ = 0;
};

}  // namespace fusco::cuda
