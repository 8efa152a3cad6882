#include "rank_places.hpp"

namespace fusco {

int32_t RankPlaces::lowestAt(uint32_t token, uint32_t rank) const {
  int32_t lowest = -1;
  const Place *at = of(token);
  for (uint32_t k = 0; k < topk; k++) {
    if (at[k].row < 0 || at[k].peer != rank) continue;
    if (lowest < 0 || at[k].row < lowest) lowest = at[k].row;
  }
  return lowest;
}

void RankPlaces::writeArrival(uint32_t here, uint32_t *slots) const {
  for (uint32_t token = 0; token < tokens; token++) {
    const int32_t lowest = lowestAt(token, here);
    for (uint32_t k = 0; k < topk; k++) {
      const Place &place = of(token)[k];
      const bool isHere = place.row >= 0 && place.peer == here;
      *slots++ = !isHere ? noSlot : static_cast<uint32_t>(place.row) | (place.row == lowest ? isLanding : 0);
    }
  }
}

}  // namespace fusco
