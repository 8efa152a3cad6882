// The most rows that ranks send one another through NCCL, from the gathered facts: the lengths of messages
// follow from them, so that all ranks must find the same. No CUDA.
#pragma once

#include "rank_tables.hpp"
#include "run_passes.hpp"

namespace fusco::nccl {

struct MostRows {
  uint32_t entries;    // that a rank sends to another one that it does not reach directly
  uint32_t forwarded;  // that a rank sends once to a node; 0 in flat plans
};

// `group`: its rankFirst, counts and capacity are read. `nodeRows` [ranks, nodes], null in flat plans, as
// `ranksPerNode` is 0 then.
MostRows mostRows(const planning::GroupTables &group, const uint32_t *nodeRows, uint32_t ranksPerNode,
                  const Neighbors &neighbors);

}  // namespace fusco::nccl
