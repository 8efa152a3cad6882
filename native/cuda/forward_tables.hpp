// Forwarded rows of a hierarchical plan in the form of the device's tables.
#pragma once

#include <vector>

#include "device_tables.hpp"
#include "plan.hpp"

namespace fusco::cuda {

struct ForwardTables {
  // Per rank [tokens, topk]: slots of its own node; for each forwarded row its landing place, at its first
  // entry.
  std::vector<std::vector<Place>> firstHop;
  // Per forwarder, with firstPlace counted over that rank's own list of places.
  std::vector<std::vector<Landed>> landed;
  std::vector<std::vector<Place>> places;
  // Landing rows per rank; 0 where every row lands in a slot.
  std::vector<uint32_t> landingRows;
};

// `groups` [ranks] are the rail groups. Throws E_SHARD_HEAD or E_SEGMENT_BOUNDS where the descriptors would
// move a row wrongly.
ForwardTables makeForwardTables(const CheckedPlan &checked, const uint16_t *groups);

}  // namespace fusco::cuda
