#include "placement.hpp"

#include <algorithm>

#include "failure.hpp"
#include "plan_layout.h"

namespace fusco::planning {

namespace {

// Fills `owners` with one expert's ranks, ascending.
void readOwners(uint32_t expert, uint32_t ranks, const uint16_t *given, uint32_t count,
                std::vector<uint16_t> &owners) {
  const auto refuse = [&](auto... text) {
    throw Failure(FUSCO_E_PLACEMENT, text...).at("/placement/%u", expert);
  };
  if (count == 0) refuse("expert %u has no rank", expert);
  const auto first = static_cast<std::ptrdiff_t>(owners.size());
  for (uint32_t i = 0; i < count; i++) {
    if (given[i] >= ranks) refuse("expert %u on rank %u of %u", expert, uint32_t{given[i]}, ranks);
    owners.push_back(given[i]);
  }
  std::sort(owners.begin() + first, owners.end());
  if (std::adjacent_find(owners.begin() + first, owners.end()) != owners.end()) {
    refuse("expert %u is placed twice on one rank", expert);
  }
}

// Orders instances and nodes by node.
struct NodeOrder {
  const std::vector<uint16_t> &nodeOf;
  bool operator()(uint16_t instance, uint32_t node) const { return nodeOf[instance] < node; }
  bool operator()(uint32_t node, uint16_t instance) const { return node < nodeOf[instance]; }
};

}  // namespace

Placement makePlacement(uint32_t experts, uint32_t ranks, uint32_t ranksPerNode, const uint32_t *offsets,
                        const uint16_t *owners) {
  Placement made;
  made.experts = experts;
  made.ranks = ranks;
  made.isBlock = true;
  made.map.offsets.push_back(0);
  std::vector<uint16_t> &list = made.map.ranks;
  for (uint32_t expert = 0; expert < experts; expert++) {
    const auto block = static_cast<uint16_t>(uint64_t{expert} * ranks / experts);
    if (offsets == nullptr) {
      list.push_back(block);
    } else {
      if (offsets[expert + 1] < offsets[expert]) {
        throw Failure(FUSCO_E_PLACEMENT, "offset %u of the placement is below the one before", expert + 1)
            .at("/placement/%u", expert);
      }
      const uint32_t count = offsets[expert + 1] - offsets[expert];
      if (list.size() + count > FUSCO_MAX_INSTANCES) {
        throw Failure(FUSCO_E_LIMIT, "%llu expert instances > %d", uint64_t{list.size()} + count,
                      FUSCO_MAX_INSTANCES)
            .at("/placement")
            .limited(list.size() + count, FUSCO_MAX_INSTANCES);
      }
      readOwners(expert, ranks, owners + offsets[expert], count, list);
      made.isBlock = made.isBlock && count == 1 && list.back() == block;
    }
    made.map.offsets.push_back(static_cast<uint32_t>(list.size()));
  }
  made.instances = static_cast<uint32_t>(list.size());
  made.rankFirst.assign(ranks + 1, 0);
  for (const uint16_t rank : list) made.rankFirst[rank + 1]++;
  for (uint32_t rank = 0; rank < ranks; rank++) made.rankFirst[rank + 1] += made.rankFirst[rank];
  std::vector<uint32_t> next(made.rankFirst.begin(), made.rankFirst.end() - 1);
  made.instanceRank.resize(made.instances);
  made.instanceNode.resize(made.instances);
  made.instanceExpert.resize(made.instances);
  made.hosts.resize(made.instances);
  for (uint32_t expert = 0; expert < experts; expert++) {
    for (uint32_t i = made.map.offsets[expert]; i < made.map.offsets[expert + 1]; i++) {
      const uint32_t instance = next[list[i]]++;
      made.hosts[i] = static_cast<uint16_t>(instance);
      made.instanceRank[instance] = list[i];
      made.instanceNode[instance] = static_cast<uint16_t>(list[i] / ranksPerNode);
      made.instanceExpert[instance] = static_cast<uint16_t>(expert);
    }
  }
  return made;
}

CandidateLists localCandidates(const Placement &placement, uint32_t rank, uint32_t node) {
  CandidateLists lists;
  for (uint32_t expert = 0; expert < placement.experts; expert++) {
    const auto first = placement.hosts.begin() + placement.map.offsets[expert];
    const auto end = placement.hosts.begin() + placement.map.offsets[expert + 1];
    const auto isLocal = [&](uint16_t instance) { return placement.instanceRank[instance] == rank; };
    // Hosts ascend, so those of a node follow one another.
    const auto [near, far] = std::equal_range(first, end, node, NodeOrder{placement.instanceNode});
    const auto local = std::find_if(near, far, isLocal);
    const auto at = static_cast<std::ptrdiff_t>(lists.instances.size());
    if (local != far) {
      lists.instances.push_back(*local);
    } else if (near != far) {
      lists.instances.insert(lists.instances.end(), near, far);
    } else {
      lists.instances.insert(lists.instances.end(), first, end);
      std::rotate(lists.instances.begin() + at, lists.instances.begin() + at + rank % (end - first),
                  lists.instances.end());
    }
    lists.first.push_back(static_cast<uint32_t>(at));
    lists.count.push_back(static_cast<uint32_t>(lists.instances.size()) - lists.first.back());
  }
  return lists;
}

}  // namespace fusco::planning
