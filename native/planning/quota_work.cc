#include "quota_work.hpp"

namespace fusco::planning {

ReplicaGroups groupReplicas(const Placement &placement) {
  ReplicaGroups groups;
  groups.groupOf.resize(placement.instances);
  for (uint32_t expert = 0; expert < placement.experts; expert++) {
    const uint32_t first = placement.map.offsets[expert];
    for (uint32_t at = first; at < placement.map.offsets[expert + 1]; at++) {
      const uint32_t instance = placement.hosts[at];
      const bool isNew =
          at == first || placement.instanceNode[instance] != placement.instanceNode[placement.hosts[at - 1]];
      if (isNew) groups.first.push_back(at);
      groups.groupOf[instance] = static_cast<uint32_t>(groups.first.size()) - 1;
    }
  }
  groups.first.push_back(placement.instances);
  return groups;
}

std::vector<uint32_t> quotasOf(const Spec &spec, const uint32_t *counts, uint64_t stride) {
  const Placement &placement = spec.placement;
  const ReplicaGroups groups = groupReplicas(placement);
  const auto groupCount = static_cast<uint32_t>(groups.first.size()) - 1;
  std::vector<uint32_t> quotas(uint64_t{spec.ranks} * placement.instances);
  std::vector<int64_t> start(placement.instances), rows(placement.instances);
  std::vector<int64_t> demand(groupCount), held(groupCount), load(spec.ranks), left(spec.ranks);
  std::vector<uint32_t> rankSeen(spec.ranks), expertSeen(spec.experts), groupSeen(groupCount);
  std::vector<uint32_t> queue(spec.ranks), to(spec.ranks);
  std::vector<int32_t> from(spec.ranks);
  QuotaTables tables{};
  tables.ranks = spec.ranks;
  tables.experts = spec.experts;
  tables.instances = placement.instances;
  tables.groups = groupCount;
  tables.ranksPerNode = spec.ranksPerNode;
  tables.rankFirst = placement.rankFirst.data();
  tables.instanceRank = placement.instanceRank.data();
  tables.instanceExpert = placement.instanceExpert.data();
  tables.first = placement.map.offsets.data();
  tables.list = placement.hosts.data();
  tables.groupFirst = groups.first.data();
  tables.groupOf = groups.groupOf.data();
  tables.counts = counts;
  tables.stride = stride;
  tables.quotas = quotas.data();
  tables.start = start.data();
  tables.rows = rows.data();
  tables.demand = demand.data();
  tables.held = held.data();
  tables.load = load.data();
  tables.left = left.data();
  tables.rankSeen = rankSeen.data();
  tables.expertSeen = expertSeen.data();
  tables.groupSeen = groupSeen.data();
  tables.queue = queue.data();
  tables.from = from.data();
  tables.to = to.data();
  computeQuotas(tables);
  return quotas;
}

}  // namespace fusco::planning
