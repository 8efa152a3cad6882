#include "verify.hpp"

#include <initializer_list>

#include "checks.hpp"

namespace fusco::plan_file {

namespace {

using Check = void (*)(const Plan &, uint32_t);

void checkAll(const Plan &plan, std::initializer_list<Check> checks) {
  for (const Check check : checks) {
    for (uint32_t rank = 0; rank < plan.spec.ranks; rank++) check(plan, rank);
  }
}

}  // namespace

void verifyPlan(const Header &header, const std::vector<ShardView> &shards) {
  Plan plan{header.spec, header.decision, shards, {}};
  checkAll(plan, {checkHead, checkReceive, checkForwardRows, checkSend});
  if (!plan.spec.isFlat()) {
    for (const ShardView &shard : shards) {
      const auto rows = shard.section(FUSCO_S_FORWARD_ROWS);
      plan.nodeRows.insert(plan.nodeRows.end(), rows.begin(), rows.end());
    }
    checkGroups(plan);
  }
  for (uint32_t rank = 0; rank < plan.spec.ranks; rank++) {
    for (const Check check :
         {checkEntries, checkSendOrder, checkDirectSlices, checkTileOrder, checkReplicas}) {
      check(plan, rank);
    }
    if (plan.spec.isFlat()) continue;
    for (const Check check : {checkLanding, checkForward, checkForwardSlices}) check(plan, rank);
  }
  if (plan.spec.hasQuotas()) checkQuotas(plan);
}

}  // namespace fusco::plan_file
