// Passes over instances: from the facts, each rank's counts per instance, to the rows of blocks and runs.
// Rows of an expert are ordered by (source rank, token, k), so every first row is a prefix sum over the
// facts. One call per instance or per rank.
#pragma once

#include "checked_shard.hpp"
#include "plan_layout.h"
#include "plan_types.hpp"

namespace fusco::planning {

// A sum beyond the format's limit.
constexpr uint32_t tooManyRows = uint32_t{FUSCO_MAX_ROWS} + 1;

// The gathered facts and what all ranks share.
struct GroupTables {
  uint32_t ranks;
  uint32_t instances;
  uint32_t capacity;          // most rows of a block; 0: no limit
  uint32_t align;             // rows to which every block is padded
  const uint32_t *rankFirst;  // [ranks + 1], first instance of each rank
  const uint32_t *counts;     // [ranks, stride]: rows of every run before the capacity
  uint64_t stride;
  uint32_t *totals;    // [instances], rows of every block before the capacity
  uint32_t *blockRow;  // [instances], first row of every block at its rank
};

FUSCO_ON_BOTH inline uint32_t countOf(const GroupTables &group, uint32_t source, uint32_t instance) {
  return group.counts[source * group.stride + instance];
}

FUSCO_ON_BOTH inline uint32_t saturatedSum(uint32_t a, uint32_t b) {
  const uint64_t sum = uint64_t{a} + b;
  return sum < tooManyRows ? static_cast<uint32_t>(sum) : tooManyRows;
}

// Rows of a run that fit under the capacity, given how many rows of the block come before it.
FUSCO_ON_BOTH inline uint32_t keptRows(uint32_t before, uint32_t rows, uint32_t capacity) {
  if (capacity == 0 || uint64_t{before} + rows <= capacity) return rows;
  return before >= capacity ? 0 : capacity - before;
}

FUSCO_ON_BOTH inline uint64_t alignRows(uint64_t row, uint32_t align) {
  const uint64_t past = row % align;
  return past == 0 ? row : row + align - past;
}

// totals, and `before` [instances], the rows that ranks below `rank` send, of the instances [first, end).
// Saturated at tooManyRows.
FUSCO_ON_BOTH inline void sumCounts(const GroupTables &group, uint32_t rank, uint32_t first, uint32_t end,
                                    uint32_t *before) {
  for (uint32_t i = first; i < end; i++) before[i] = group.totals[i] = 0;
  for (uint32_t source = 0; source < group.ranks; source++) {
    for (uint32_t i = first; i < end; i++) {
      const uint32_t count = countOf(group, source, i);
      if (source < rank) before[i] = saturatedSum(before[i], count);
      group.totals[i] = saturatedSum(group.totals[i], count);
    }
  }
}

// The same of one instance: the rows of its run that ranks below `rank` send, and of its block.
struct BlockCounts {
  uint32_t before;
  uint32_t total;
};
FUSCO_ON_BOTH inline BlockCounts sumCounts(const GroupTables &group, uint32_t rank, uint32_t instance) {
  BlockCounts sums{0, 0};
  for (uint32_t source = 0; source < group.ranks; source++) {
    const uint32_t count = countOf(group, source, instance);
    if (source < rank) sums.before = saturatedSum(sums.before, count);
    sums.total = saturatedSum(sums.total, count);
  }
  return sums;
}

// Rows of a block, padding included. Blocks start at multiples of `align`, so a block's first row is the sum
// of the padded rows before it.
FUSCO_ON_BOTH inline uint64_t paddedRows(const GroupTables &group, uint32_t instance) {
  return alignRows(keptRows(0, group.totals[instance], group.capacity), group.align);
}

// blockRow of a rank's instances. Returns the rows of its receive buffer, padding included.
FUSCO_ON_BOTH inline uint64_t layBlocks(const GroupTables &group, uint32_t rank) {
  uint64_t row = 0;
  for (uint32_t i = group.rankFirst[rank]; i < group.rankFirst[rank + 1]; i++) {
    group.blockRow[i] = static_cast<uint32_t>(row);
    row += paddedRows(group, i);
  }
  return row;
}

// The rows of the run (source rank, instance), of whose block `before` rows come from lower ranks.
FUSCO_ON_BOTH inline RowRange runOf(const GroupTables &group, uint32_t source, uint32_t instance,
                                    uint32_t before) {
  return {group.blockRow[instance] + keptRows(0, before, group.capacity),
          keptRows(before, countOf(group, source, instance), group.capacity)};
}

// The runs of one instance, [ranks] each: S_RUN_ROW and S_RUN_ROWS.
FUSCO_ON_BOTH inline void layRuns(const GroupTables &group, uint32_t instance, uint32_t *row,
                                  uint32_t *rows) {
  uint32_t before = 0;
  for (uint32_t source = 0; source < group.ranks; source++) {
    const RowRange run = runOf(group, source, instance, before);
    row[source] = run.first;
    rows[source] = run.rows;
    before += countOf(group, source, instance);
  }
}

}  // namespace fusco::planning
