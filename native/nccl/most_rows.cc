#include "most_rows.hpp"

#include <algorithm>

namespace fusco::nccl {

MostRows mostRows(const planning::GroupTables &group, const uint32_t *nodeRows, uint32_t ranksPerNode,
                  const Neighbors &neighbors) {
  const uint32_t ranks = neighbors.ranks;
  const bool isFlat = ranksPerNode == 0;
  const auto isDirect = [&](uint32_t from, uint32_t to) {
    return neighbors.machineOf[from] == neighbors.machineOf[to] &&
           (isFlat || from / ranksPerNode == to / ranksPerNode);
  };
  MostRows most{0, 0};
  std::vector<uint32_t> sent(ranks);
  for (uint32_t to = 0; to < ranks; to++) {
    std::fill(sent.begin(), sent.end(), 0);
    for (uint32_t i = group.rankFirst[to]; i < group.rankFirst[to + 1]; i++) {
      uint32_t before = 0;
      for (uint32_t from = 0; from < ranks; from++) {
        const uint32_t count = planning::countOf(group, from, i);
        sent[from] += planning::keptRows(before, count, group.capacity);
        before = planning::saturatedSum(before, count);
      }
    }
    for (uint32_t from = 0; from < ranks; from++) {
      if (!isDirect(from, to)) most.entries = std::max(most.entries, sent[from]);
    }
  }
  if (isFlat) return most;
  const uint32_t nodes = ranks / ranksPerNode;
  for (uint32_t from = 0; from < ranks; from++) {
    for (uint32_t node = 0; node < nodes; node++) {
      if (isDirect(from, node * ranksPerNode)) continue;
      most.forwarded = std::max(most.forwarded, nodeRows[uint64_t{from} * nodes + node]);
    }
  }
  return most;
}

}  // namespace fusco::nccl
