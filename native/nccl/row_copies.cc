#include "row_copies.hpp"

#include "failure.hpp"
#include "plan_layout.h"
#include "rank_tables.hpp"

namespace fusco::nccl {

void keepLowest(Place *places, uint32_t count, uint32_t self, ToldCopies &told) {
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t peer = places[i].peer;
    if (places[i].row < 0 || peer == self) continue;
    const auto isAtPeer = [&](uint32_t j) { return places[j].row >= 0 && places[j].peer == peer; };
    uint32_t lowest = i;
    for (uint32_t j = i + 1; j < count; j++) {
      if (isAtPeer(j) && places[j].row < places[lowest].row) lowest = j;
    }
    bool isListed = false;
    for (uint32_t j = i; j < count; j++) {
      if (!isAtPeer(j) || j == lowest) continue;
      if (!isListed) told[peer].push_back(static_cast<uint32_t>(places[lowest].row) | isLanding);
      isListed = true;
      told[peer].push_back(static_cast<uint32_t>(places[j].row));
      places[j].row = FUSCO_SLOT_MASKED;
    }
  }
}

Landing keepLowest(const Landing &landing, uint32_t self, ToldCopies &told) {
  Landing kept;
  std::vector<Place> row;
  for (size_t i = 0; i + 1 < landing.offset.size(); i++) {
    row.assign(landing.places.begin() + landing.offset[i], landing.places.begin() + landing.offset[i + 1]);
    keepLowest(row.data(), static_cast<uint32_t>(row.size()), self, told);
    for (const Place &place : row) {
      if (place.row >= 0) kept.places.push_back(place);
    }
    kept.offset.push_back(static_cast<uint32_t>(kept.places.size()));
  }
  return kept;
}

void RowCopies::add(uint32_t source, const uint32_t *told, uint64_t words, uint32_t self,
                    std::vector<bool> &isTaken) {
  for (uint64_t i = 0; i < words; i++) {
    const uint32_t slot = told[i] & ~isLanding;
    const bool lands = (told[i] & isLanding) != 0;
    // A row lands once and has at least one other slot, which is higher.
    const bool isFirst = i == 0 || (told[i - 1] & isLanding) == 0;
    const bool isLast = i + 1 == words;
    if (slot >= isTaken.size() || isTaken[slot] ||
        (lands ? !isFirst || isLast : i == 0 || slot < from.back())) {
      throw Failure(FUSCO_E_PEER_MISMATCH, "rank %u sends a row that is copied to slot %u, which cannot be",
                    source, slot)
          .atRank(source);
    }
    isTaken[slot] = true;
    if (lands) {
      from.push_back(slot);
      offset.push_back(offset.back());
    } else {
      places.push_back({self, static_cast<int32_t>(slot)});
      offset.back()++;
    }
  }
}

}  // namespace fusco::nccl
