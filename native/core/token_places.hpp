// The places of one token's rows, and what follows from them for the ranks that exchange them. One call per
// entry, on processors and GPUs.
#pragma once

#include "plan_types.hpp"

namespace fusco {

// A slot that an entry does not have at a rank.
constexpr uint32_t noSlot = 0xffffffffu;
// Marks the slot in which a token's row arrives at a rank: the lowest of its slots there.
constexpr uint32_t isLanding = 0x80000000u;

// `condition ? value : other` without a branch. Routing is random, so that a processor predicts every second
// such branch wrongly, and compilers do not know that.
FUSCO_ON_BOTH inline uint32_t chosen(bool condition, uint32_t value, uint32_t other) {
#ifdef __CUDA_ARCH__
  return condition ? value : other;
#else
  const uint32_t mask = 0u - static_cast<uint32_t>(condition);
  return (value & mask) | (other & ~mask);
#endif
}

FUSCO_ON_BOTH inline uint32_t countBits(uint64_t bits) {
#ifdef __CUDA_ARCH__
  return static_cast<uint32_t>(__popcll(bits));
#else
  return static_cast<uint32_t>(__builtin_popcountll(bits));
#endif
}

// A set of ranks below 64.
struct RankBits {
  uint64_t bits = 0;

  FUSCO_ON_BOTH bool has(uint32_t rank) const { return (bits >> rank & 1) != 0; }
  FUSCO_ON_BOTH void add(uint32_t rank) { bits |= uint64_t{1} << rank; }
  FUSCO_ON_BOTH uint32_t count() const { return countBits(bits); }
  // Its ranks below `rank`.
  FUSCO_ON_BOTH uint32_t below(uint32_t rank) const { return countBits(bits & ((uint64_t{1} << rank) - 1)); }
};

// What a token's rank adds in a one-pass combine, in the order of ranks and then of k: each row on its own
// device, and one partial sum for each rank of another device.
struct TermOrder {
  bool isTerm = false;    // whether the entry at hand is one of them; of a partial sum, the lowest k is
  uint32_t position = 0;  // of the entry among them, if it is one
  uint32_t terms = 0;     // of the token
  RankBits senders;       // ranks of other devices with rows of the token
};

struct TokenPlaces {
  const Place *at;  // [topk]; peer: a rank
  uint32_t topk;

  FUSCO_ON_BOTH bool isKept(uint32_t k) const { return at[k].row >= 0; }

  // Whether a kept entry has the lowest slot of the token at its rank.
  FUSCO_ON_BOTH bool isLowest(uint32_t k) const {
    const Place own = at[k];
    // Without an early end, so that loads of several entries overlap on the device.
    bool isLowest = true;
    for (uint32_t other = 0; other < topk; other++) {
      const Place place = at[other];
      const bool isLower = place.row >= 0 && place.peer == own.peer && place.row < own.row;
      isLowest = isLowest && !isLower;
    }
    return isLowest;
  }

  // What rank `here` must know of an entry: its slot there, marked if the row arrives in it, or noSlot.
  FUSCO_ON_BOTH uint32_t arrival(uint32_t k, uint32_t here) const {
    if (!isKept(k) || at[k].peer != here) return noSlot;
    return static_cast<uint32_t>(at[k].row) | (isLowest(k) ? isLanding : 0);
  }

  // Where a rank with the devices' ranks `local` sends the row of the entry at `place`: every slot on the
  // device, the landing slot at each other rank. `arrival`: that of the entry at its rank; noSlot has the
  // mark too.
  FUSCO_ON_BOTH static Place send(const Place &place, uint32_t arrival, RankBits local, int32_t noRow) {
    if (local.has(place.peer) || (arrival & isLanding) != 0) return place;
    return {place.peer, noRow};
  }

  FUSCO_ON_BOTH TermOrder termOrder(uint32_t k, RankBits local) const {
    const uint32_t rank = at[k].peer;
    TermOrder order;
    order.isTerm = isKept(k);
    // Without branches, for the lanes of a warp; two at a time, since more take too many registers.
#ifdef __CUDA_ARCH__
#pragma unroll 2
#endif
    for (uint32_t other = 0; other < topk; other++) {
      const Place place = at[other];
      const uint64_t bit = place.row >= 0 ? uint64_t{1} << place.peer : 0;
      const uint32_t isLocal = (bit & local.bits) != 0 ? 1 : 0;
      const bool isSameBefore = place.peer == rank && other < k;
      const uint64_t sender = bit & ~local.bits;
      order.senders.bits |= sender;
      order.isTerm = order.isTerm && !(sender != 0 && isSameBefore);
      order.terms += isLocal;
      order.position += place.peer < rank || isSameBefore ? isLocal : 0;
    }
    order.terms += order.senders.count();
    order.position += order.senders.below(rank);
    return order;
  }
};

}  // namespace fusco
