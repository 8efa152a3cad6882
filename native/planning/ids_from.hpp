// Ids of all ranks, from an array of the caller.
#pragma once

#include <vector>

#include "fusco_planning.h"
#include "structs.hpp"

namespace fusco::planning {

// `given` [ranks]; its struct_size is the distance between elements. Throws E_OPTION.
inline std::vector<fusco_ids> idsFrom(const fusco_ids *given, uint32_t ranks) {
  if (given == nullptr) throw Failure(FUSCO_E_OPTION, "ids is NULL");
  const uint32_t size = statedSize(given, "fusco_ids");
  std::vector<fusco_ids> ids;
  for (uint32_t rank = 0; rank < ranks; rank++) {
    const auto *at = reinterpret_cast<const uint8_t *>(given) + uint64_t{rank} * size;
    ids.push_back(structFrom(reinterpret_cast<const fusco_ids *>(at), "fusco_ids"));
  }
  return ids;
}

}  // namespace fusco::planning
