// Replicas: every entry goes to the instance that the plan's rule gives (docs/replicas.md).

#include "checks.hpp"
#include "quota_work.hpp"

namespace fusco::plan_file {

namespace {

Failure badEntry(uint32_t rank, size_t entry, const char *format, uint32_t found, uint32_t wanted) {
  return defect(FUSCO_E_ENTRY, rank, place("entries", entry), format, found, wanted).limited(found, wanted);
}

void checkLocal(const Plan &plan, uint32_t rank) {
  const Spec &spec = plan.spec;
  const planning::Placement &placement = spec.placement;
  const auto instances = plan.shards[rank].section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
  const planning::CandidateLists lists = planning::localCandidates(placement, rank, spec.nodeOf(rank));
  for (size_t entry = 0; entry < instances.size(); entry++) {
    const uint32_t i = instances[entry];
    if (i >= placement.instances) continue;
    const uint32_t expert = placement.instanceExpert[i];
    const auto token = static_cast<uint32_t>(entry / spec.topk);
    const uint32_t wanted = lists.instances[lists.first[expert] + token % lists.count[expert]];
    if (i != wanted) throw badEntry(rank, entry, "instance %u, the rule local gives %u", i, wanted);
  }
}

void checkOrder(const Plan &plan, uint32_t rank) {
  const planning::Placement &placement = plan.spec.placement;
  const auto instances = plan.shards[rank].section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
  std::vector<uint16_t> last(plan.spec.experts);
  for (size_t entry = 0; entry < instances.size(); entry++) {
    const uint16_t i = instances[entry];
    if (i >= placement.instances) continue;
    uint16_t &before = last[placement.instanceExpert[i]];
    if (i < before) throw badEntry(rank, entry, "instance %u after instance %u of the expert", i, before);
    before = i;
  }
}

}  // namespace

void checkReplicas(const Plan &plan, uint32_t rank) {
  if (!plan.spec.placement.hasReplicas()) return;
  if (plan.spec.hasQuotas()) {
    checkOrder(plan, rank);
  } else {
    checkLocal(plan, rank);
  }
}

void checkQuotas(const Plan &plan) {
  const Spec &spec = plan.spec;
  const planning::Placement &placement = spec.placement;
  std::vector<uint32_t> counts(uint64_t{spec.ranks} * placement.instances);
  std::vector<uint32_t> ofExperts(uint64_t{spec.ranks} * spec.experts);
  for (uint32_t rank = 0; rank < spec.ranks; rank++) {
    for (const uint16_t i : plan.shards[rank].section<uint16_t>(FUSCO_S_ENTRY_INSTANCE)) {
      if (i >= placement.instances) continue;
      counts[uint64_t{rank} * placement.instances + i]++;
      ofExperts[uint64_t{rank} * spec.experts + placement.instanceExpert[i]]++;
    }
  }
  const std::vector<uint32_t> quotas = planning::quotasOf(spec, ofExperts.data(), spec.experts);
  for (size_t at = 0; at < quotas.size(); at++) {
    if (quotas[at] == counts[at]) continue;
    const auto rank = static_cast<uint32_t>(at / placement.instances);
    const auto instance = static_cast<uint32_t>(at % placement.instances);
    throw defect(FUSCO_E_ENTRY, rank, place("quotas", instance),
                 "%u entries for instance %u, the rule quota-1 gives %u", counts[at], instance, quotas[at])
        .limited(counts[at], quotas[at]);
  }
}

}  // namespace fusco::plan_file
