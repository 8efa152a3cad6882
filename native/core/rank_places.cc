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

void RankPlaces::writeArrival(uint32_t here, uint32_t *slots) const {
  for (uint32_t token = 0; token < tokens; token++, slots += topk) {
    const TokenPlaces at = of(token);
    // Without branches, which nothing predicts: who has an entry is random. noSlot is above all slots.
    uint32_t lowest = noSlot;
    uint32_t lowestK = 0;
    for (uint32_t k = 0; k < topk; k++) {
      const Place place = at.at[k];
      const uint32_t slot = static_cast<uint32_t>(place.row) | (place.peer == here ? 0 : noSlot);
      slots[k] = place.row < 0 ? noSlot : slot;
      lowestK = slots[k] < lowest ? k : lowestK;
      lowest = std::min(lowest, slots[k]);
    }
    if (lowest != noSlot) slots[lowestK] |= isLanding;
  }
}

}  // namespace fusco
