#include "rank_places.hpp"

#include <algorithm>

namespace fusco {

std::vector<RankBits> RankPlaces::ranksOfTokens() const {
  std::vector<RankBits> ranks(tokens);
  for (uint32_t token = 0; token < tokens; token++) {
    const TokenPlaces at = of(token);
    for (uint32_t k = 0; k < topk; k++) {
      if (at.isKept(k)) ranks[token].add(at.at[k].peer);
    }
  }
  return ranks;
}

std::vector<uint32_t> RankPlaces::tokensAtRanks(uint32_t ranks) const {
  const std::vector<RankBits> of = ranksOfTokens();
  std::vector<uint32_t> count(ranks, 0);
  for (uint32_t rank = 0; rank < ranks; rank++) {
    for (uint32_t token = 0; token < tokens; token++) count[rank] += of[token].has(rank) ? 1 : 0;
  }
  return count;
}

void RankPlaces::writeArrival(uint32_t here, uint32_t *slots) const {
  for (uint32_t token = 0; token < tokens; token++, slots += topk) {
    const TokenPlaces at = of(token);
    // Without branches, which nothing predicts: who has an entry is random. noSlot is above all slots.
    uint32_t lowest = noSlot;
    for (uint32_t k = 0; k < topk; k++) {
      const Place place = at.at[k];
      const bool isHere = (place.peer == here) & (place.row >= 0);
      slots[k] = chosen(isHere, static_cast<uint32_t>(place.row), noSlot);
      lowest = std::min(lowest, slots[k]);
    }
    // noSlot, which has the mark, remains what it is.
    for (uint32_t k = 0; k < topk; k++) slots[k] |= chosen(slots[k] == lowest, isLanding, 0);
  }
}

}  // namespace fusco
