// Small plans: those whose tables fit the shared memory of one block, which then makes the whole plan of a
// rank and copies it to the plan buffer at the end.
#pragma once

#include "plan_buffer.hpp"

namespace fusco::cuda {

// Shared memory of a block that lays out landing rows.
struct ForwardShared {
  uint32_t nodeRows[maxRanks * maxRanks];  // [ranks, nodes]
  uint64_t sent[maxRanks], load[maxRanks];
  uint16_t byLoad[maxRanks], byGroup[maxRanks], railGroups[maxRanks];
  uint32_t rule;
};

// Dynamic shared memory of a block at most, without what kernels declare themselves.
constexpr uint64_t mostPlanShared = 226 * 1024;
// Blocks of one cluster at most, which make the plans of the ranks of one process.
constexpr uint32_t mostClusterRanks = 8;

// Bytes of shared memory in which a block makes a plan: the tables of a plan buffer but those of arrivals,
// which it writes to their place, and then ForwardShared.
FUSCO_ON_BOTH inline uint64_t sharedPlanTables(const PlanBuffer &offsets) {
  return reinterpret_cast<uintptr_t>(offsets.arrival);
}
FUSCO_ON_BOTH inline uint64_t sharedPlanBytes(const PlanBuffer &offsets) {
  return sharedPlanTables(offsets) + sizeof(ForwardShared);
}

// Bytes of a plan buffer that a block copies: without work tables, and without those for other devices.
FUSCO_ON_BOTH inline uint64_t copiedPlanBytes(const PlanBuffer &offsets) {
  return reinterpret_cast<uintptr_t>(offsets.onePass);
}

}  // namespace fusco::cuda
