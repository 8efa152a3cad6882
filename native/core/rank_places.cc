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
  // All entries at once, which a processor does several at a time: noSlot has all bits.
  const uint64_t entries = uint64_t{tokens} * topk;
  for (uint64_t entry = 0; entry < entries; entry++) {
    const Place place = places[entry];
    slots[entry] = chosen((place.peer == here) & (place.row >= 0), static_cast<uint32_t>(place.row), noSlot);
  }
  for (uint32_t token = 0; token < tokens; token++, slots += topk) {
    uint32_t lowest = noSlot;
    uint32_t lowestK = 0;
    for (uint32_t k = 0; k < topk; k++) {
      lowestK = chosen(slots[k] < lowest, k, lowestK);
      lowest = std::min(lowest, slots[k]);
    }
    // noSlot, which has the mark, remains what it is.
    slots[lowestK] |= isLanding;
  }
}

}  // namespace fusco
