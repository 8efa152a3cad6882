// What all ranks decide from the facts, with the same result: who forwards.
#pragma once

#include <string>

#include "spec.hpp"

namespace fusco::planning {

// The gathered facts of all ranks.
struct Facts {
  const uint32_t *targets;  // [ranks, targetStride]: entries of each target
  uint64_t targetStride;
  const uint32_t *counts;  // [ranks, stride]: rows of each instance before the capacity
  uint64_t stride;
  const uint32_t *nodeRows;  // [ranks, nodeStride]; null for flat plans
  uint64_t nodeStride;
  std::vector<uint32_t> quotas;        // where `counts` are, if quotas choose instances; else empty
  const uint32_t *rankRows = nullptr;  // [ranks, nodeStride]; null unless AUTO may choose once per rank
};

// Rows per node with the nodes of `spec`: if AUTO chose one rank per node, the rows per rank.
const uint32_t *rowsPerNode(const Spec &spec, const Facts &facts);

struct Decision {
  fusco_strategy strategy = FUSCO_STRATEGY_FLAT;  // never AUTO
  fusco_balance rule = FUSCO_BALANCE_BEST;        // never BEST in a hierarchical plan
  std::vector<uint16_t> groups;                   // [ranks], rail group of every rank; empty in flat plans
  std::string reason;                             // why AUTO chose the strategy; empty for other strategies

  bool isFlat() const { return strategy == FUSCO_STRATEGY_FLAT; }
};

// The strategy of `spec` is settled. Throws E_FACTS where it needs rows per node that the facts lack.
Decision decide(const Spec &spec, const Facts &facts);

// [nodes]: the rank of each node that is in `rank`'s rail group.
std::vector<uint32_t> forwardersOf(const Spec &spec, const std::vector<uint16_t> &groups, uint32_t rank);

}  // namespace fusco::planning
