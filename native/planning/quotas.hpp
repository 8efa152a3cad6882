// Replica rule quota-1: rows of each source rank for each instance. docs/replicas.md specifies the algorithm;
// its steps have the same numbers here. Ties are broken by the lowest index, so every implementation gets the
// same quotas.
//
// An expert with one instance takes part in balancing as well, where its rows cannot leave their rank.
#pragma once

#include "fusco.h"
#include "plan_types.hpp"

namespace fusco::planning {

// The placement, the counts, and memory of the algorithm. A place is an index in `list`. A group is the
// instances of one expert on one node, which follow one another in `list`.
struct QuotaTables {
  uint32_t ranks;
  uint32_t experts;
  uint32_t instances;
  uint32_t groups;
  uint32_t ranksPerNode;
  const uint32_t *rankFirst;       // [ranks + 1], first instance of each rank
  const uint16_t *instanceRank;    // [instances]
  const uint16_t *instanceExpert;  // [instances]
  const uint32_t *first;           // [experts + 1], first place of each expert
  const uint16_t *list;            // [instances], instances by (expert, rank)
  const uint32_t *groupFirst;      // [groups + 1], first place of each group
  const uint32_t *groupOf;         // [instances], group of each instance
  const uint32_t *counts;          // [ranks, stride]: entries of each expert
  uint64_t stride;
  uint32_t *quotas;  // out, [ranks, instances]

  int64_t *start;   // [instances], scratch: rows before they are balanced
  int64_t *rows;    // [instances], scratch
  int64_t *demand;  // [groups], scratch
  int64_t *held;    // [groups], scratch
  int64_t *load;    // [ranks], scratch
  int64_t *left;    // [ranks], scratch
  // Scratch of the search. What it has reached or finished has its number.
  uint32_t *rankSeen;    // [ranks], zero
  uint32_t *expertSeen;  // [experts], zero
  uint32_t *groupSeen;   // [groups], zero
  uint32_t *queue;       // [ranks]
  int32_t *from;         // [ranks], instance that rows leave on the last hop to a rank; noHop where it starts
  uint32_t *to;          // [ranks], instance that they join
};

constexpr int32_t noHop = -1;
// Most rounds of one pass.
constexpr uint32_t quotaRounds = 256;

FUSCO_ON_BOTH inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }
FUSCO_ON_BOTH inline int64_t greater(int64_t a, int64_t b) { return a > b ? a : b; }
FUSCO_ON_BOTH inline int64_t ceilQuotient(int64_t value, int64_t by) { return (value + by - 1) / by; }

FUSCO_ON_BOTH inline uint32_t entriesOf(const QuotaTables &tables, uint32_t source, uint32_t expert) {
  return tables.counts[source * tables.stride + expert];
}

// Entries of the ranks [first, end) for an expert.
FUSCO_ON_BOTH inline int64_t sumEntries(const QuotaTables &tables, uint32_t expert, uint32_t first,
                                        uint32_t end) {
  int64_t sum = 0;
  for (uint32_t source = first; source < end; source++) sum += entriesOf(tables, source, expert);
  return sum;
}

FUSCO_ON_BOTH inline uint32_t rankAt(const QuotaTables &tables, uint32_t place) {
  return tables.instanceRank[tables.list[place]];
}

// First rank of the node of the places of a group.
FUSCO_ON_BOTH inline uint32_t nodeRankAt(const QuotaTables &tables, uint32_t place) {
  const uint32_t rank = rankAt(tables, place);
  return rank - rank % tables.ranksPerNode;
}

// Gives `total` rows to the places [first, end), evenly, the rest to the first of them.
FUSCO_ON_BOTH inline void spreadRows(const QuotaTables &tables, uint32_t first, uint32_t end, int64_t total) {
  const int64_t count = end - first;
  for (uint32_t at = first; at < end; at++) {
    tables.start[tables.list[at]] += total / count + (at - first < total % count ? 1 : 0);
  }
}

// Steps 1 and 2: rows stay on their rank or node if it has an instance, and are spread evenly otherwise.
// Returns the bound: what the busiest rank receives in any case.
FUSCO_ON_BOTH inline int64_t startNear(const QuotaTables &tables) {
  for (uint32_t i = 0; i < tables.instances; i++) tables.start[i] = 0;
  for (uint32_t rank = 0; rank < tables.ranks; rank++) tables.load[rank] = 0;
  int64_t all = 0;
  int64_t bound = 0;
  uint32_t group = 0;
  for (uint32_t expert = 0; expert < tables.experts; expert++) {
    const uint32_t first = tables.first[expert];
    const uint32_t end = tables.first[expert + 1];
    const int64_t total = sumEntries(tables, expert, 0, tables.ranks);
    all += total;
    bound = greater(bound, ceilQuotient(total, end - first));
    if (end - first == 1) {
      tables.start[tables.list[first]] = total;
      tables.load[rankAt(tables, first)] += total;
      tables.demand[group++] = total;
      continue;
    }
    int64_t foreign = total;
    for (; group < tables.groups && tables.groupFirst[group] < end; group++) {
      const uint32_t groupFirst = tables.groupFirst[group];
      const uint32_t groupEnd = tables.groupFirst[group + 1];
      const uint32_t rank = nodeRankAt(tables, groupFirst);
      const int64_t demand = sumEntries(tables, expert, rank, rank + tables.ranksPerNode);
      tables.demand[group] = demand;
      int64_t rest = demand;
      for (uint32_t at = groupFirst; at < groupEnd; at++) {
        const int64_t local = entriesOf(tables, rankAt(tables, at), expert);
        tables.start[tables.list[at]] += local;
        rest -= local;
      }
      spreadRows(tables, groupFirst, groupEnd, rest);
      foreign -= demand;
    }
    spreadRows(tables, first, end, foreign);
  }
  bound = greater(bound, ceilQuotient(all, tables.ranks));
  for (uint32_t rank = 0; rank < tables.ranks; rank++) bound = greater(bound, tables.load[rank]);
  return bound;
}

// Step 3: moves rows from ranks above a bound to ranks below it, along chains of replicas: augmenting paths
// of a flow, searched breadth first from all ranks above the bound.
class RowBalancer {
 public:
  // Continues with the numbers of searches from `search`.
  FUSCO_ON_BOTH RowBalancer(const QuotaTables &tables, int64_t bound, uint32_t search)
      : tables_(tables), bound_(bound), search_(search) {
    for (uint32_t rank = 0; rank < tables.ranks; rank++) tables.load[rank] = 0;
    for (uint32_t group = 0; group < tables.groups; group++) tables.held[group] = 0;
    for (uint32_t i = 0; i < tables.instances; i++) {
      tables.rows[i] = tables.start[i];
      tables.held[tables.groupOf[i]] += tables.rows[i];
      tables.load[tables.instanceRank[i]] += tables.rows[i];
    }
  }

  FUSCO_ON_BOTH int64_t bound() const { return bound_; }
  FUSCO_ON_BOTH uint32_t search() const { return search_; }

  FUSCO_ON_BOTH void balance() {
    for (uint32_t round = 0; round < quotaRounds; round++) {
      reach(true);
      if (length_ == 0) return;
      if (push(true)) continue;
      reach(false);
      if (!push(false)) raise();
    }
  }

 private:
  // Fills the queue from the ranks above the bound on. `near`: only moves that bring no more rows to other
  // nodes.
  FUSCO_ON_BOTH void reach(bool near) {
    search_++;
    length_ = 0;
    for (uint32_t rank = 0; rank < tables_.ranks; rank++) {
      if (tables_.load[rank] > bound_) enqueue(rank, noHop, 0);
    }
    for (uint32_t head = 0; head < length_; head++) {
      const uint32_t rank = tables_.queue[head];
      for (uint32_t i = tables_.rankFirst[rank]; i < tables_.rankFirst[rank + 1]; i++) {
        const uint32_t expert = tables_.instanceExpert[i];
        if (tables_.rows[i] == 0 || tables_.expertSeen[expert] == search_) continue;
        const uint32_t group = tables_.groupOf[i];
        if (near && tables_.held[group] <= tables_.demand[group]) {
          if (tables_.groupSeen[group] == search_) continue;
          tables_.groupSeen[group] = search_;
          enqueueHosts(i, tables_.groupFirst[group], tables_.groupFirst[group + 1]);
        } else {
          tables_.expertSeen[expert] = search_;
          enqueueHosts(i, tables_.first[expert], tables_.first[expert + 1]);
        }
      }
    }
  }

  FUSCO_ON_BOTH void enqueueHosts(uint32_t from, uint32_t first, uint32_t end) {
    for (uint32_t at = first; at < end; at++) {
      const uint32_t rank = rankAt(tables_, at);
      if (tables_.rankSeen[rank] != search_) enqueue(rank, static_cast<int32_t>(from), tables_.list[at]);
    }
  }

  FUSCO_ON_BOTH void enqueue(uint32_t rank, int32_t from, uint32_t to) {
    tables_.rankSeen[rank] = search_;
    tables_.from[rank] = from;
    tables_.to[rank] = to;
    tables_.queue[length_++] = rank;
  }

  // Moves rows to the ranks of the queue below the bound, in order. Returns whether any moved.
  FUSCO_ON_BOTH bool push(bool near) {
    bool moved = false;
    for (uint32_t at = 0; at < length_; at++) {
      const uint32_t rank = tables_.queue[at];
      if (tables_.load[rank] >= bound_) continue;
      const int64_t rows = movable(rank, near);
      if (rows <= 0) continue;
      move(rank, rows);
      moved = true;
    }
    return moved;
  }

  // Rows that can move along the whole chain to a rank.
  FUSCO_ON_BOTH int64_t movable(uint32_t target, bool near) const {
    int64_t rows = bound_ - tables_.load[target];
    uint32_t rank = target;
    for (int32_t from = tables_.from[rank]; from != noHop; from = tables_.from[rank]) {
      rows = lesser(rows, tables_.rows[from]);
      const uint32_t group = tables_.groupOf[from];
      if (near && tables_.groupOf[tables_.to[rank]] != group) {
        rows = lesser(rows, tables_.held[group] - tables_.demand[group]);
      }
      rank = tables_.instanceRank[from];
    }
    return lesser(rows, tables_.load[rank] - bound_);
  }

  FUSCO_ON_BOTH void move(uint32_t target, int64_t rows) {
    tables_.load[target] += rows;
    uint32_t rank = target;
    for (int32_t from = tables_.from[rank]; from != noHop; from = tables_.from[rank]) {
      const uint32_t to = tables_.to[rank];
      tables_.rows[from] -= rows;
      tables_.rows[to] += rows;
      tables_.held[tables_.groupOf[from]] -= rows;
      tables_.held[tables_.groupOf[to]] += rows;
      rank = tables_.instanceRank[from];
    }
    tables_.load[rank] -= rows;
  }

  // The rows of these ranks cannot leave them: their mean, rounded up, is the least bound.
  FUSCO_ON_BOTH void raise() {
    int64_t rows = 0;
    for (uint32_t at = 0; at < length_; at++) rows += tables_.load[tables_.queue[at]];
    bound_ = ceilQuotient(rows, length_);
  }

  const QuotaTables &tables_;
  int64_t bound_;
  uint32_t search_;
  uint32_t length_ = 0;
};

// Gives rows of the ranks [rank, endRank) to the places [place, end), both in order.
FUSCO_ON_BOTH inline void fillQuotas(const QuotaTables &tables, uint32_t place, uint32_t end, uint32_t rank,
                                     uint32_t endRank) {
  while (rank < endRank && place < end) {
    const uint32_t instance = tables.list[place];
    const int64_t rows = lesser(tables.left[rank], tables.rows[instance]);
    tables.quotas[uint64_t{rank} * tables.instances + instance] += static_cast<uint32_t>(rows);
    tables.left[rank] -= rows;
    tables.rows[instance] -= rows;
    if (tables.left[rank] == 0) {
      rank++;
    } else {
      place++;
    }
  }
}

// Step 5: which sources the rows of each instance come from.
FUSCO_ON_BOTH inline void splitBySource(const QuotaTables &tables) {
  for (uint64_t i = 0; i < uint64_t{tables.ranks} * tables.instances; i++) tables.quotas[i] = 0;
  uint32_t group = 0;
  for (uint32_t expert = 0; expert < tables.experts; expert++) {
    const uint32_t first = tables.first[expert];
    const uint32_t end = tables.first[expert + 1];
    for (uint32_t rank = 0; rank < tables.ranks; rank++) tables.left[rank] = entriesOf(tables, rank, expert);
    if (end - first > 1) {
      for (uint32_t at = first; at < end; at++) {
        const uint32_t rank = rankAt(tables, at);
        fillQuotas(tables, at, at + 1, rank, rank + 1);
      }
    }
    for (; group < tables.groups && tables.groupFirst[group] < end; group++) {
      if (end - first == 1) continue;
      const uint32_t rank = nodeRankAt(tables, tables.groupFirst[group]);
      fillQuotas(tables, tables.groupFirst[group], tables.groupFirst[group + 1], rank,
                 rank + tables.ranksPerNode);
    }
    fillQuotas(tables, first, end, 0, tables.ranks);
  }
}

// Fills `quotas`: the rows of every (source rank, instance) pair before the capacity.
FUSCO_ON_BOTH inline void computeQuotas(const QuotaTables &tables) {
  const int64_t bound = startNear(tables);
  RowBalancer balancer(tables, bound, 0);
  balancer.balance();
  if (balancer.bound() > bound) {
    // Step 4: what was moved for a bound that cannot be met stays near its source.
    RowBalancer(tables, balancer.bound(), balancer.search()).balance();
  }
  splitBySource(tables);
}

struct QuotaChoice {
  uint16_t instance;
  uint32_t position;  // of the entry in its run
};

// Step 6: the instance of an entry, which is number `position` of its source rank for the expert. `quotas`
// [instances] are those of the rank, `hosts` the instances of the expert.
FUSCO_ON_BOTH inline QuotaChoice instanceByQuota(const uint32_t *quotas, const uint16_t *hosts,
                                                 uint32_t position) {
  while (position >= quotas[*hosts]) position -= quotas[*hosts++];
  return {*hosts, position};
}

}  // namespace fusco::planning
