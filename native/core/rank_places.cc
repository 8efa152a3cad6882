#include "rank_places.hpp"

namespace fusco {

bool RankPlaces::hasRowAt(uint32_t token, uint32_t rank) const {
  const TokenPlaces at = of(token);
  for (uint32_t k = 0; k < topk; k++) {
    if (at.isKept(k) && at.at[k].peer == rank) return true;
  }
  return false;
}

void RankPlaces::writeArrival(uint32_t here, uint32_t *slots) const {
  for (uint32_t token = 0; token < tokens; token++) {
    const TokenPlaces at = of(token);
    for (uint32_t k = 0; k < topk; k++) *slots++ = at.arrival(k, here);
  }
}

}  // namespace fusco
