// Where experts live. An instance is an (expert, rank) pair; instances are numbered by (rank, expert), so
// that a rank's instances are consecutive and in ascending expert order.
#pragma once

#include <cstdint>
#include <vector>

namespace fusco::planning {

// The ranks of each expert, ascending.
struct ExpertRanks {
  std::vector<uint32_t> offsets;  // [experts + 1]
  std::vector<uint16_t> ranks;    // [offsets[experts]]
};

struct Placement {
  uint32_t experts = 0;
  uint32_t ranks = 0;
  uint32_t instances = 0;
  std::vector<uint32_t> rankFirst;       // [ranks + 1], first instance of each rank; the last is `instances`
  std::vector<uint16_t> instanceRank;    // [instances]
  std::vector<uint16_t> instanceNode;    // [instances]
  std::vector<uint16_t> instanceExpert;  // [instances]
  ExpertRanks map;
  std::vector<uint16_t> hosts;  // [instances], instances by (expert, rank): those on the ranks of `map`
  bool isBlock = false;         // contiguous blocks: owner(e) = e * ranks / experts

  bool hasReplicas() const { return instances != experts; }
};

// `offsets` [experts + 1] and `owners` as in fusco_plan_options; null: contiguous blocks. Throws E_PLACEMENT,
// E_LIMIT.
Placement makePlacement(uint32_t experts, uint32_t ranks, uint32_t ranksPerNode, const uint32_t *offsets,
                        const uint16_t *owners);

// The instances that rows of one source rank may choose, by expert.
struct CandidateLists {
  std::vector<uint32_t> first;      // [experts], index of each expert's first candidate in `instances`
  std::vector<uint32_t> count;      // [experts]
  std::vector<uint16_t> instances;  // ascending for each expert

  bool isSingle() const { return instances.size() == first.size(); }
};

// Replica rule local: an instance on `rank`, else those on its node, else all of them, of which number rank %
// count comes first. Without replicas: the only instance.
CandidateLists localCandidates(const Placement &placement, uint32_t rank, uint32_t node);

}  // namespace fusco::planning
