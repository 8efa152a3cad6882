// The most rows between ranks, of hand-worked facts: four ranks, an expert each, on two machines.
//
// Test of native/nccl/most_rows.cc.

#include <cstdio>

#include "most_rows.hpp"

namespace {

using namespace fusco;
using namespace fusco::nccl;

constexpr uint32_t ranks = 4;
constexpr uint32_t rankFirst[ranks + 1] = {0, 1, 2, 3, 4};
constexpr uint32_t oneEach[ranks] = {0, 1, 2, 3};
constexpr uint32_t twoMachines[ranks] = {0, 0, 1, 1};
// Rows of each rank for each expert.
constexpr uint32_t counts[ranks * ranks] = {
    90, 80, 5,  7,   // to its own machine most
    70, 60, 9,  3,   //
    4,  8,  50, 40,  //
    2,  6,  99, 30,  //
};

int failures = 0;

void check(const char *what, uint32_t found, uint32_t expected) {
  if (found == expected) return;
  failures++;
  std::printf("%s: %u, not %u\n", what, found, expected);
}

planning::GroupTables groupOf(uint32_t capacity) {
  planning::GroupTables group{};
  group.rankFirst = rankFirst;
  group.capacity = capacity;
  group.counts = counts;
  group.stride = ranks;
  return group;
}

MostRows mostOf(uint32_t rank, const uint32_t *machines, uint32_t capacity, const uint32_t *nodeRows,
                uint32_t ranksPerNode) {
  return mostRows(groupOf(capacity), nodeRows, ranksPerNode, Neighbors(ranks, rank, machines));
}

}  // namespace

int main() {
  for (uint32_t rank = 0; rank < ranks; rank++) {
    check("flat, two machines", mostOf(rank, twoMachines, 0, nullptr, 0).entries, 9);
    check("flat, forwarded", mostOf(rank, twoMachines, 0, nullptr, 0).forwarded, 0);
    check("flat, each rank a machine", mostOf(rank, oneEach, 0, nullptr, 0).entries, 99);
    // Expert 2 takes 5 + 9 rows from below, 50 from its own rank, and then 36 of 99.
    check("a capacity of 100", mostOf(rank, oneEach, 100, nullptr, 0).entries, 80);
    // Experts 0 to 3: ranks 0 and 1 fill them up to 12 each.
    check("a capacity of 12", mostOf(rank, twoMachines, 12, nullptr, 0).entries, 7);
    // Nodes of one rank: rows for the other rank of a machine are forwarded as well.
    const uint32_t rowsOfRank[ranks * ranks] = {0, 75, 5, 7, 70, 0, 9, 3, 4, 8, 0, 40, 2, 6, 77, 0};
    const MostRows once = mostOf(rank, twoMachines, 0, rowsOfRank, 1);
    check("once per rank, entries", once.entries, 99);
    check("once per rank, forwarded", once.forwarded, 77);
    const uint32_t rowsOfNode[ranks * 2] = {0, 11, 0, 10, 12, 0, 8, 0};
    const MostRows byNode = mostOf(rank, twoMachines, 0, rowsOfNode, 2);
    check("nodes of two ranks, entries", byNode.entries, 9);
    check("nodes of two ranks, forwarded", byNode.forwarded, 12);
  }
  std::printf(failures == 0 ? "right\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
