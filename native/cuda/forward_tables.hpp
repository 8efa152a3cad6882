// Forwarding and distribution descriptors of a hierarchical plan, checked and in the form of the device's
// tables.
#pragma once

#include <vector>

#include "device_tables.hpp"
#include "fusco_cuda.h"
#include "plan.hpp"

namespace fusco::cuda {

struct ForwardTables {
  // Per rank [tokens, topk]: slots of the own node; for each forwarded row its landing row, at its first
  // entry.
  std::vector<std::vector<Place>> stagedPlace;
  // Per forwarder, with firstPlace counted over that rank's own list of places.
  std::vector<std::vector<Landed>> landed;
  std::vector<std::vector<Place>> places;
  // Staging rows per rank that some row lands in; 0 where all land in slots.
  std::vector<uint32_t> stageRows;
};

// Throws E_SHARD_HEAD, E_SEGMENT_BOUNDS or E_ENTRY where the descriptors would move a row wrongly.
ForwardTables readForward(const fusco_plan &plan, const fusco_cuda_plan_desc &desc);

}  // namespace fusco::cuda
