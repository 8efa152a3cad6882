// Dispatch by tiles: the copy engine of each multiprocessor (cp.async.bulk) brings a tile of rows into shared
// memory and writes every row from there to all of its slots. Threads move no payload bytes.
#pragma once

#include "device.cuh"

namespace fusco::cuda {

__device__ inline uint32_t sharedAddress(const void *at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

__device__ inline void barrierInit(uint64_t *barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(sharedAddress(barrier)) : "memory");
}

__device__ inline void barrierExpect(uint64_t *barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(barrier)),
               "r"(bytes)
               : "memory");
}

// Acquires what the copy engine wrote for this phase.
__device__ inline void barrierWait(uint64_t *barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(sharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

enum class Keep { normal, first, last };

__device__ inline uint64_t policyOf(Keep keep) {
  uint64_t policy;
  if (keep == Keep::first) {
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  } else if (keep == Keep::last) {
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  } else {
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
  }
  return policy;
}

__device__ inline void bulkLoad(uint8_t *shared, const uint8_t *global, uint32_t bytes, uint64_t *barrier,
                                uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], "
      "%4;" ::"r"(sharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(sharedAddress(barrier)), "l"(policy)
      : "memory");
}

__device__ inline void bulkStore(uint8_t *global, const uint8_t *shared, uint32_t bytes, uint64_t policy) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;" ::"l"(global),
               "r"(sharedAddress(shared)), "r"(bytes), "l"(policy)
               : "memory");
}

__device__ inline void bulkPrefetch(const uint8_t *global, uint32_t bytes, uint64_t policy) {
  asm volatile("cp.async.bulk.prefetch.L2.global.L2::cache_hint [%0], %1, %2;" ::"l"(global), "r"(bytes),
               "l"(policy)
               : "memory");
}

__device__ inline void bulkCommit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// This thread's stores have read shared memory.
__device__ inline void bulkWaitRead() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// This thread's stores have been made.
__device__ inline void bulkWait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Rows of a rank that one block moves at a time.
struct Tile {
  uint32_t local;  // index of the rank
  uint32_t token;  // over all local ranks
  uint32_t rows;
};

// Shared memory of a block, in front of its row buffers.
struct TileState {
  uint64_t arrived[maxBuffers];
  uint32_t tileStart[maxRanks + 1];  // first tile of each local rank, last = tiles
  uint32_t kept;
  // A prefix of these two for the tile at hand: keys first, then where each store goes and which row it is.
  uint64_t key[maxTileEntries];
  uint8_t *to[maxTileEntries];
  uint8_t row[maxTileEntries];
};

__device__ inline void layTiles(TileState &state, const SlotHead *head, uint32_t rows) {
  uint32_t tiles = 0;
  for (uint32_t i = 0; i < head->localRanks; i++) {
    state.tileStart[i] = tiles;
    tiles += (head->tokenStart[i + 1] - head->tokenStart[i] + rows - 1) / rows;
  }
  state.tileStart[head->localRanks] = tiles;
}

__device__ inline Tile tileAt(const TileState &state, const SlotHead *head, uint32_t rows, uint32_t number) {
  uint32_t local = 0;
  while (state.tileStart[local + 1] <= number) local++;
  const uint32_t first = (number - state.tileStart[local]) * rows;
  const uint32_t tokens = head->tokenStart[local + 1] - head->tokenStart[local];
  return {local, head->tokenStart[local] + first, min(rows, tokens - first)};
}

// One warp moves all tiles of a block.
class TileMover {
 public:
  __device__ TileMover(const DispatchParams &params, TileState &state, uint8_t *buffers)
      : p_(params),
        head_(params.plan.head),
        state_(state),
        buffers_(buffers),
        lane_(threadIdx.x % 32),
        loadPolicy_(policyOf((params.tiling.hints & 2) != 0 ? Keep::first : Keep::normal)),
        storePolicy_(policyOf((params.tiling.hints & 1) != 0 ? Keep::first : Keep::normal)),
        aheadPolicy_(policyOf((params.tiling.hints & 4) != 0 ? Keep::last : Keep::normal)) {}

  __device__ void movePayload(uint32_t index) {
    payload_ = &p_.payload[index];
    chunkBytes_ = p_.chunkBytes[index];
    chunks_ = static_cast<uint32_t>((payload_->rowBytes + chunkBytes_ - 1) / chunkBytes_);
    tiles_ = state_.tileStart[head_->localRanks] * chunks_;
    const uint32_t rounds = (tiles_ + gridDim.x - 1) / gridDim.x;
    if (p_.tiling.buffers > 1) {
      movePipelined();
    } else {
      for (uint32_t round = 0; round < rounds; round++) moveRound(round, rounds);
    }
    bulkWait();
    __syncwarp();
  }

 private:
  // The tile and the piece of its rows that are number `work`.
  __device__ uint8_t *buffer(uint32_t index) {
    return buffers_ + index * p_.tiling.rows * maxChunk();
  }
  __device__ uint32_t maxChunk() {
    uint32_t most = 0;
    for (uint32_t i = 0; i < p_.bulk; i++) most = max(most, p_.chunkBytes[i]);
    return most;
  }

  struct Piece {
    Tile tile;
    uint64_t offset;
    uint32_t bytes;
  };

  __device__ Piece pieceAt(uint32_t work) {
    const uint32_t chunk = work % chunks_;
    const uint64_t offset = static_cast<uint64_t>(chunk) * chunkBytes_;
    const uint64_t rest = payload_->rowBytes - offset;
    return {tileAt(state_, head_, p_.tiling.rows, work / chunks_), offset,
            static_cast<uint32_t>(rest < chunkBytes_ ? rest : chunkBytes_)};
  }

  __device__ const uint8_t *source(const Piece &piece) {
    const uint64_t row = piece.tile.token - head_->tokenStart[piece.tile.local] + lane_;
    return payload_->from[head_->rankOf[piece.tile.local]] + row * payload_->rowBytes + piece.offset;
  }

  __device__ void load(const Piece &piece, uint32_t index) {
    if (lane_ == 0) barrierExpect(&state_.arrived[index], piece.bytes * piece.tile.rows);
    __syncwarp();
    if (lane_ < piece.tile.rows) {
      bulkLoad(buffer(index) + lane_ * piece.bytes, source(piece), piece.bytes, &state_.arrived[index],
               loadPolicy_);
    }
  }

  __device__ void await(uint32_t index) {
    barrierWait(&state_.arrived[index], phases_ >> index & 1);
    phases_ ^= 1u << index;
  }

  // Lists the stores of a tile in state_.to and state_.row, in the order in which they are issued.
  __device__ void listStores(const Piece &piece) {
    const uint32_t topk = head_->topk;
    const uint32_t entries = piece.tile.rows * topk;
    const uint64_t first = static_cast<uint64_t>(piece.tile.token) * topk;
    const Place *places = p_.place + first;
    if (p_.tiling.sorted == 0 || usesOrder()) {
      listInOrder(piece, places, usesOrder() ? p_.plan.order + first : nullptr, entries);
      return;
    }
    for (uint32_t e = lane_; e < entries; e += 32) {
      const Place place = places[e];
      // Entries that go nowhere come last.
      const uint64_t key = static_cast<uint64_t>(place.peer) << 32 | static_cast<uint32_t>(place.row);
      state_.key[e] = place.row < 0 ? ~uint64_t{0} : key;
    }
    if (lane_ == 0) state_.kept = 0;
    __syncwarp();
    for (uint32_t e = lane_; e < entries; e += 32) {
      const uint64_t key = state_.key[e];
      if (key == ~uint64_t{0}) continue;
      uint32_t at = 0;
      for (uint32_t other = 0; other < entries; other++) at += state_.key[other] < key ? 1 : 0;
      put(piece, at, e / topk, {static_cast<uint32_t>(key >> 32), static_cast<int32_t>(key)});
      atomicAdd(&state_.kept, 1u);
    }
    __syncwarp();
  }

  __device__ bool usesOrder() {
    return p_.tiling.sorted != 0 && head_->tileTokens == p_.tiling.rows && p_.place == p_.plan.place;
  }

  __device__ void listInOrder(const Piece &piece, const Place *places, const uint8_t *order,
                              uint32_t entries) {
    uint32_t kept = 0;
    for (uint32_t base = 0; base < entries; base += 32) {
      const uint32_t j = base + lane_;
      uint32_t e = j;
      Place place = {0, -1};
      if (j < entries) {
        if (order != nullptr) e = order[j];
        if (e < entries) place = places[e];
      }
      const uint32_t real = __ballot_sync(0xffffffffu, place.row >= 0);
      if (place.row >= 0) put(piece, kept + __popc(real & ((1u << lane_) - 1)), e / head_->topk, place);
      kept += __popc(real);
    }
    if (lane_ == 0) state_.kept = kept;
    __syncwarp();
  }

  __device__ void put(const Piece &piece, uint32_t at, uint32_t row, Place place) {
    state_.to[at] =
        payload_->to[place.peer] + static_cast<uint64_t>(place.row) * payload_->rowBytes + piece.offset;
    state_.row[at] = static_cast<uint8_t>(row);
  }

  __device__ void store(const Piece &piece, uint32_t index) {
    const uint32_t kept = state_.kept;
    const uint8_t *rows = buffer(index);
    for (uint32_t j = lane_; j < kept; j += 32) {
      bulkStore(state_.to[j], rows + state_.row[j] * piece.bytes, piece.bytes, storePolicy_);
    }
    bulkCommit();
  }

  // All blocks wait for one another, so that the memory bus sees reads and writes in turns of megabytes. It
  // is about speed alone: a block that waits for longer than a round takes goes on.
  __device__ void meet() {
    meetings_++;
    if (lane_ == 0) {
      constexpr long long patience = 200000;  // cycles, about 0.1 ms
      const uint32_t goal = meetings_ * gridDim.x;
      atomicAdd(&p_.meeting[0], 1u);
      const long long start = clock64();
      while (*reinterpret_cast<volatile uint32_t *>(&p_.meeting[0]) < goal && clock64() - start < patience) {
      }
    }
    __syncwarp();
  }

  __device__ void moveRound(uint32_t round, uint32_t rounds) {
    const uint32_t work = round * gridDim.x + blockIdx.x;
    const bool has = work < tiles_;
    Piece piece;
    if (has) {
      piece = pieceAt(work);
      load(piece, 0);
      if (p_.tiling.ahead > 0 && round % (p_.tiling.ahead + 1) == 0) askAhead(work);
      listStores(piece);
      await(0);
    }
    if (p_.tiling.barriers >= 1) meet();
    if (has) {
      store(piece, 0);
      bulkWaitRead();
      __syncwarp();
    }
    if (p_.tiling.barriers >= 2 && round + 1 < rounds) meet();
  }

  __device__ void askAhead(uint32_t work) {
    for (uint32_t step = 1; step <= p_.tiling.ahead; step++) {
      const uint32_t later = work + step * gridDim.x;
      if (later >= tiles_) return;
      const Piece piece = pieceAt(later);
      if (lane_ < piece.tile.rows) bulkPrefetch(source(piece), piece.bytes, aheadPolicy_);
    }
  }

  // Loads run `buffers` - 1 tiles ahead of the stores.
  __device__ void movePipelined() {
    const uint32_t count = p_.tiling.buffers;
    for (uint32_t i = 0; i + 1 < count; i++) {
      const uint32_t work = blockIdx.x + i * gridDim.x;
      if (work < tiles_) load(pieceAt(work), i);
    }
    uint32_t index = 0;
    for (uint32_t work = blockIdx.x; work < tiles_; work += gridDim.x) {
      const Piece piece = pieceAt(work);
      listStores(piece);
      // The tile before has left its buffer, which is the next to be loaded.
      bulkWaitRead();
      __syncwarp();
      const uint32_t later = work + (count - 1) * gridDim.x;
      if (later < tiles_) load(pieceAt(later), index == 0 ? count - 1 : index - 1);
      await(index);
      store(piece, index);
      __syncwarp();
      index = index + 1 == count ? 0 : index + 1;
    }
  }

  const DispatchParams &p_;
  const SlotHead *head_;
  TileState &state_;
  uint8_t *buffers_;
  uint32_t lane_;
  uint64_t loadPolicy_;
  uint64_t storePolicy_;
  uint64_t aheadPolicy_;
  const Payload *payload_ = nullptr;
  uint32_t chunkBytes_ = 0;
  uint32_t chunks_ = 0;
  uint32_t tiles_ = 0;
  uint32_t meetings_ = 0;
  uint32_t phases_ = 0;  // a bit for each buffer
};

}  // namespace fusco::cuda
