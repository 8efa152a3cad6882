// A rank's view of the landing rows of hierarchical plans. A forwarder's landing buffer has one row for each
// row that it forwards, by source rank, so addresses follow from the facts alone. One call per rank.
#pragma once

#include "balance.hpp"

namespace fusco::planning {

struct LandingTables {
  uint32_t *forwarder;   // [nodes], the rank of each node that forwards for this one
  uint32_t *landingRow;  // [nodes], S_FORWARD_ROW
  uint32_t *firstRow;    // [nodes], first forwarded row of each node
  uint32_t *sourceRow;   // [ranks], S_STAGE_ROW
  uint32_t *sourceRows;  // [ranks], S_STAGE_ROWS
};

// `groups` [ranks], the rail groups. Returns the rows of the rank's own landing buffer.
FUSCO_ON_BOTH inline uint64_t layLanding(const BalanceInput &input, const uint16_t *groups, uint32_t rank,
                                         const LandingTables &tables) {
  const uint32_t nodes = nodesOf(input);
  const uint32_t localNode = rank / input.ranksPerNode;
  uint32_t row = 0;
  for (uint32_t node = 0; node < nodes; node++) {
    tables.landingRow[node] = 0;
    tables.firstRow[node] = row;
    row += input.nodeRows[rank * input.stride + node];
  }
  uint64_t staged = 0;
  for (uint32_t source = 0; source < input.ranks; source++) {
    const bool isMember = groups[source] == groups[rank];
    const uint32_t *rows = input.nodeRows + source * input.stride;
    const bool isOther = isMember && source != rank;
    tables.sourceRow[source] = isOther ? static_cast<uint32_t>(staged) : 0;
    tables.sourceRows[source] = isOther ? rows[localNode] : 0;
    staged += tables.sourceRows[source];
    if (!isMember) continue;
    tables.forwarder[source / input.ranksPerNode] = source;
    for (uint32_t node = 0; source < rank && node < nodes; node++) {
      if (node != localNode) tables.landingRow[node] += rows[node];
    }
  }
  return staged;
}

}  // namespace fusco::planning
