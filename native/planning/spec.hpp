// Options of a plan with every default filled in and every range checked.
#pragma once

#include "fusco_planning.h"
#include "placement.hpp"

namespace fusco::planning {

struct Spec {
  uint32_t experts = 0;
  uint32_t ranks = 0;
  uint32_t ranksPerNode = 0;
  uint32_t nodes = 0;
  uint32_t topk = 0;
  uint32_t hidden = 0;
  fusco_dtype dtype = FUSCO_DTYPE_BYTES;
  fusco_dtype combineDtype = FUSCO_DTYPE_BYTES;
  uint32_t align = 0;
  uint32_t capacity = 0;  // 0: no limit
  fusco_strategy strategy = FUSCO_STRATEGY_FLAT;
  // Hierarchical plans only, as are the next two.
  fusco_balance balance = FUSCO_BALANCE_BEST;
  fusco_partial partial = FUSCO_PARTIAL_PAYLOAD;
  fusco_sum sum = FUSCO_SUM_NODE;
  fusco_replicas replicas = FUSCO_REPLICAS_QUOTA_1;  // matters only if the placement has replicas
  uint32_t sliceRows = 0;
  uint32_t tileTokens = 0;  // 0: no order of stores
  uint32_t maxRows = 0;     // of a receive buffer while planning; 0: no bound
  Placement placement;

  bool isFlat() const { return strategy == FUSCO_STRATEGY_FLAT; }
  // Whether quotas choose an entry's instance, so that the facts count experts.
  bool hasQuotas() const { return placement.hasReplicas() && replicas == FUSCO_REPLICAS_QUOTA_1; }
  // What an entry's id becomes before the facts are known: an expert or an instance.
  uint32_t targets() const { return hasQuotas() ? experts : placement.instances; }
  // Whether rows per node depend on the counts of all ranks.
  bool countsTwice() const { return !isFlat() && (capacity > 0 || hasQuotas()); }
  // Whether AUTO may choose once per rank. Not if experts have replicas: the instance that takes a row then
  // depends on the nodes, and the facts count the rows only for one choice of nodes.
  bool considersOncePerRank() const {
    return strategy == FUSCO_STRATEGY_AUTO && ranksPerNode > 1 && !placement.hasReplicas();
  }
  // Rows that a rank counts in addition to its targets: for each node, and for each rank if AUTO may choose
  // once per rank.
  uint32_t rowCounts() const { return isFlat() ? 0 : nodes + (considersOncePerRank() ? ranks : 0); }
  uint32_t nodeOf(uint32_t rank) const { return rank / ranksPerNode; }
};

// `options` has the form of this version. Throws E_OPTION, E_PLACEMENT, E_LIMIT.
Spec makeSpec(const fusco_plan_options &options);

// The same where nothing settles AUTO: throws E_OPTION for it.
Spec makeSettledSpec(const fusco_plan_options &options);

// Ranks of one machine that AUTO assumes; 0 for other strategies. Throws E_OPTION.
uint32_t ranksPerHostOf(const fusco_plan_options &options, const Spec &spec);

// The dtype of combined rows where the options name none.
fusco_dtype defaultCombineDtype(fusco_dtype dtype);

// What the ids of `rank` become: instances, or experts where quotas choose the instance.
CandidateLists targetsOf(const Spec &spec, uint32_t rank);

// Ranks [firstRank, endRank) and instances [first, end) to which a rank sends without a forwarder: all of
// them in a flat plan, those of its node in others.
struct DirectRange {
  uint32_t firstRank, endRank, first, end;
};
DirectRange directRange(const Spec &spec, bool isFlat, uint32_t rank);

}  // namespace fusco::planning
