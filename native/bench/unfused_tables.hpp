// The rows of a plan in the order in which the unfused pipelines of the host and of one GPU move them.
#pragma once

#include "plan.hpp"

namespace fusco {

// Consecutive packed rows from one rank to another, and where they arrive.
struct UnfusedBlock {
  uint64_t sendRow;
  uint64_t recvRow;
  uint64_t rows;
};

// The rows of all ranks are packed one after the other by (source, destination, slot), which is the order
// (expert, token, k) at each destination, and arrive by (destination, source, slot).
struct UnfusedTables {
  explicit UnfusedTables(const fusco_plan &plan);

  std::vector<Place> source;         // [rows]: rank and token of each packed row
  std::vector<Place> slot;           // [rows]: rank and slot of each arrived row
  std::vector<Place> packedAt;       // [tokens of all ranks, topk]: rank 0 and packed row, negative: no row
  std::vector<uint64_t> firstEntry;  // [ranks]: where a rank's entries start in packedAt
  std::vector<UnfusedBlock> blocks;  // in the order of packed rows
};

}  // namespace fusco
