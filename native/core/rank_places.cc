#include "rank_places.hpp"

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

void RankPlaces::writeArrival(uint32_t here, uint32_t *slots) const {
  for (uint32_t token = 0; token < tokens; token++, slots += topk) {
    const TokenPlaces at = of(token);
    uint32_t lowest = 0;
    for (uint32_t k = 0; k < topk; k++) {
      const bool isHere = at.isKept(k) && at.at[k].peer == here;
      slots[k] = isHere ? static_cast<uint32_t>(at.at[k].row) : noSlot;
      // noSlot is above all slots.
      if (slots[k] < slots[lowest]) lowest = k;
    }
    if (slots[lowest] != noSlot) slots[lowest] |= isLanding;
  }
}

}  // namespace fusco
