// Which rank forwards for which: FUSCO's paper, section 4, Algorithm 1, and two other rules.
//
// A rail group has one rank of every node. Its members forward for each other, so a balancer assigns the
// ranks of each node to the rail groups. It changes how many inter-node rows a rank receives, but not how
// many it sends.
#pragma once

#include "fusco_planning.h"
#include "plan_types.hpp"

namespace fusco::planning {

// What balancers read, and memory that they use.
struct BalanceInput {
  uint32_t ranks;
  uint32_t ranksPerNode;
  const uint32_t *nodeRows;  // [ranks, stride]: rows that each rank sends to each node, 0 for its own
  uint64_t stride;
  uint64_t *sent;     // [ranks], scratch: inter-node rows of each rank
  uint64_t *load;     // [ranks], scratch
  uint16_t *byLoad;   // [ranksPerNode], scratch
  uint16_t *byGroup;  // [ranksPerNode], scratch
};

// The objective: the lexicographic minimum over the rules.
struct Busiest {
  uint64_t rows = 0;      // largest max(sent, received) inter-node rows of any rank
  uint64_t received = 0;  // largest number of inter-node rows that any rank receives

  FUSCO_ON_BOTH bool isBelow(const Busiest &other) const {
    return rows < other.rows || (rows == other.rows && received < other.received);
  }
};

FUSCO_ON_BOTH inline uint32_t nodesOf(const BalanceInput &input) { return input.ranks / input.ranksPerNode; }

FUSCO_ON_BOTH inline void sumSent(const BalanceInput &input) {
  for (uint32_t rank = 0; rank < input.ranks; rank++) {
    uint64_t rows = 0;
    for (uint32_t node = 0; node < nodesOf(input); node++) rows += input.nodeRows[rank * input.stride + node];
    input.sent[rank] = rows;
  }
}

// order[0, count) = 0 to count - 1, sorted by `isBefore`; ties by number. Insertion: a node has few ranks.
template <class IsBefore>
FUSCO_ON_BOTH void sortNumbers(uint16_t *order, uint32_t count, IsBefore isBefore) {
  for (uint32_t i = 0; i < count; i++) {
    const auto number = static_cast<uint16_t>(i);
    uint32_t at = i;
    for (; at > 0 && isBefore(number, order[at - 1]); at--) order[at] = order[at - 1];
    order[at] = number;
  }
}

// The ranks of a node by rows sent, descending.
FUSCO_ON_BOTH inline void sortByLoad(const BalanceInput &input, uint32_t firstRank) {
  const uint64_t *sent = input.sent + firstRank;
  sortNumbers(input.byLoad, input.ranksPerNode, [=](uint32_t a, uint32_t b) { return sent[a] > sent[b]; });
}

// `groups` [ranks], the rail group of each rank under a rule other than BEST; after sumSent.
FUSCO_ON_BOTH inline void assignGroups(const BalanceInput &input, fusco_balance rule, uint16_t *groups) {
  const uint32_t size = input.ranksPerNode;
  uint64_t *load = input.load;
  for (uint32_t group = 0; group < size; group++) load[group] = 0;
  for (uint32_t node = 0; node < nodesOf(input); node++) {
    const uint32_t firstRank = node * size;
    if (rule != FUSCO_BALANCE_STATIC) sortByLoad(input, firstRank);
    if (rule == FUSCO_BALANCE_LPT) {
      // The rank with the most rows joins the group with the fewest.
      sortNumbers(input.byGroup, size, [=](uint32_t a, uint32_t b) { return load[a] < load[b]; });
    }
    for (uint32_t place = 0; place < size; place++) {
      const uint32_t rank = firstRank + (rule == FUSCO_BALANCE_STATIC ? place : input.byLoad[place]);
      uint32_t group = place;
      if (rule == FUSCO_BALANCE_ROTATE) group = (place + node) % size;
      if (rule == FUSCO_BALANCE_LPT) group = input.byGroup[place];
      groups[rank] = static_cast<uint16_t>(group);
      load[group] += input.sent[rank];
    }
  }
}

FUSCO_ON_BOTH inline Busiest busiestOf(const BalanceInput &input, const uint16_t *groups) {
  const uint32_t nodes = nodesOf(input);
  // [groups, nodes]: rows that arrive at the group's rank of the node.
  uint64_t *received = input.load;
  for (uint32_t i = 0; i < input.ranks; i++) received[i] = 0;
  Busiest busiest;
  for (uint32_t rank = 0; rank < input.ranks; rank++) {
    if (input.sent[rank] > busiest.rows) busiest.rows = input.sent[rank];
    for (uint32_t node = 0; node < nodes; node++) {
      received[groups[rank] * nodes + node] += input.nodeRows[rank * input.stride + node];
    }
  }
  for (uint32_t i = 0; i < input.ranks; i++) {
    if (received[i] > busiest.received) busiest.received = received[i];
  }
  if (busiest.received > busiest.rows) busiest.rows = busiest.received;
  return busiest;
}

// Fills `groups` [ranks]. Returns the rule, which is `rule` unless that is BEST: then the first of STATIC,
// ROTATE, LPT with the least busy rank.
FUSCO_ON_BOTH inline fusco_balance balanceGroups(const BalanceInput &input, fusco_balance rule,
                                                 uint16_t *groups) {
  if (input.ranksPerNode == 1) {
    // There is one rail group, whatever the rule.
    for (uint32_t rank = 0; rank < input.ranks; rank++) groups[rank] = 0;
    return rule == FUSCO_BALANCE_BEST ? FUSCO_BALANCE_STATIC : rule;
  }
  sumSent(input);
  if (rule == FUSCO_BALANCE_BEST) {
    Busiest least;
    rule = FUSCO_BALANCE_STATIC;
    for (int number = FUSCO_BALANCE_STATIC; number <= FUSCO_BALANCE_LPT; number++) {
      const auto candidate = static_cast<fusco_balance>(number);
      assignGroups(input, candidate, groups);
      const Busiest busiest = busiestOf(input, groups);
      if (candidate != FUSCO_BALANCE_STATIC && !busiest.isBelow(least)) continue;
      least = busiest;
      rule = candidate;
    }
  }
  assignGroups(input, rule, groups);
  return rule;
}

}  // namespace fusco::planning
