// The C interface of planning on the host.
#include <algorithm>
#include <cstdio>

#include "fusco_planning.h"
#include "guard.hpp"
#include "planner.hpp"
#include "structs.hpp"

struct fusco_planner {
  fusco::planning::Planner planner;
};

namespace {

using fusco::need;

const fusco::planning::Planner &plannerOf(const fusco_planner *planner) {
  return need(planner, "planner").planner;
}

// The second facts, which must be there if the planner needs them.
const uint32_t *secondOf(const fusco::planning::Planner &planner, const uint32_t *second) {
  return planner.secondCounts() == 0 ? nullptr : &need(second, "second_counts");
}

}  // namespace

extern "C" {

fusco_status fusco_planner_create(const fusco_plan_options *options, fusco_planner **planner,
                                  fusco_error *error) {
  return fusco::guarded(error, [&] {
    need(planner, "planner");
    const auto given = fusco::structFrom(options, "fusco_plan_options");
    *planner = new fusco_planner{fusco::planning::Planner(given)};
  });
}

void fusco_planner_destroy(fusco_planner *planner) { delete planner; }

fusco_status fusco_planner_describe(const fusco_planner *planner, fusco_planner_info *info,
                                    fusco_error *error) {
  return fusco::guarded(error, [&] {
    const auto &made = plannerOf(planner);
    need(info, "info");
    auto value = fusco_sized<fusco_planner_info>();
    value.instances = made.spec().placement.instances;
    value.counts = made.firstCounts();
    value.second_counts = made.secondCounts();
    const auto digest = made.digest();
    std::copy(digest.begin(), digest.end(), value.options_digest);
    fusco::structTo(info, value, "fusco_planner_info");
  });
}

fusco_status fusco_planner_count(const fusco_planner *planner, uint32_t rank, const fusco_ids *ids,
                                 uint32_t *counts, fusco_error *error) {
  return fusco::guarded(error, [&] {
    const auto &made = plannerOf(planner);
    made.count(rank, fusco::structFrom(ids, "fusco_ids"), &need(counts, "counts"));
  });
}

fusco_status fusco_planner_count_again(const fusco_planner *planner, uint32_t rank, const fusco_ids *ids,
                                       const uint32_t *counts, uint32_t *second_counts, fusco_error *error) {
  return fusco::guarded(error, [&] {
    const auto &made = plannerOf(planner);
    made.countAgain(rank, fusco::structFrom(ids, "fusco_ids"), &need(counts, "counts"),
                    const_cast<uint32_t *>(secondOf(made, second_counts)));
  });
}

fusco_status fusco_planner_decide(const fusco_planner *planner, const uint32_t *counts,
                                  const uint32_t *second_counts, fusco_decision *decision,
                                  uint16_t *rail_groups, fusco_error *error) {
  return fusco::guarded(error, [&] {
    const auto &made = plannerOf(planner);
    need(decision, "decision");
    const auto settled = made.settle(&need(counts, "counts"), secondOf(made, second_counts));
    const fusco::planning::Decision &found = settled.decision;
    if (!found.isFlat()) {
      std::copy(found.groups.begin(), found.groups.end(), &need(rail_groups, "rail_groups"));
    }
    auto value = fusco_sized<fusco_decision>();
    value.strategy = found.strategy;
    value.rule = found.rule;
    value.ranks_per_node = settled.spec->ranksPerNode;
    std::snprintf(value.reason, sizeof value.reason, "%s", found.reason.c_str());
    fusco::structTo(decision, value, "fusco_decision");
  });
}

fusco_status fusco_planner_shard(const fusco_planner *planner, uint32_t rank, const fusco_ids *ids,
                                 const uint32_t *counts, const uint32_t *second_counts, fusco_buffer *shard,
                                 fusco_error *error) {
  return fusco::guarded(error, [&] {
    const auto &made = plannerOf(planner);
    need(shard, "shard");
    shard->bytes = made.shard(rank, fusco::structFrom(ids, "fusco_ids"), &need(counts, "counts"),
                              secondOf(made, second_counts), *shard);
  });
}

}  // extern "C"
