// The memory of quota-1 on the host.
#pragma once

#include "quotas.hpp"
#include "spec.hpp"

namespace fusco::planning {

// Groups: the instances of one expert on one node, which follow one another in Placement::hosts.
struct ReplicaGroups {
  std::vector<uint32_t> first;    // [groups + 1], first place of each group
  std::vector<uint32_t> groupOf;  // [instances]
};
ReplicaGroups groupReplicas(const Placement &placement);

// Rows of every (source rank, instance) pair before the capacity, [ranks, instances]. `counts` [ranks,
// stride], entries of each expert.
std::vector<uint32_t> quotasOf(const Spec &spec, const uint32_t *counts, uint64_t stride);

}  // namespace fusco::planning
