// The layout of a plan buffer: one rank's plan in device memory, at fixed offsets that follow from the
// options and limits alone. Self-contained: nothing in it refers to the host or to another buffer.
//
//   state | facts of all ranks | blocks and runs | entries | forwarding (hierarchical plans)
//   | what exchanges read | work | what other devices, or other processes, tell of their tokens
#pragma once

#include <cstdint>
#include <cstring>

#include "fusco_planning.h"
#include "one_pass_plan.hpp"
#include "plan_types.hpp"
#include "quotas.hpp"

namespace fusco::cuda {

// Alignment of plan buffers and of the tables in them, in bytes.
constexpr uint64_t planBufferAlign = 256;

// Tiles that one block of threads works on: the counters of one key in these tiles fill a sector of memory.
constexpr uint32_t tilesOfBlock = 8;

// What the layout and the kernels need to know of options and limits.
struct PlanSizes {
  uint32_t ranks;
  uint32_t ranksPerNode;
  uint32_t nodes;
  uint32_t experts;
  uint32_t instances;
  uint32_t targets;  // what an id becomes at first: an expert if quotas choose the instance, else an instance
  uint32_t groups;   // of replicas; 0 without quotas
  uint32_t topk;
  uint32_t capacity;
  uint32_t align;
  uint32_t maxTokens;
  uint32_t maxRecvRows;  // slots from here on behave as dropped
  uint32_t maxLocal;     // most instances of a rank
  uint32_t tiles;        // of entries: what one warp counts
  uint32_t tileEntries;
  uint32_t isFlat;
  uint32_t isSmall;  // one block can make the plan of a rank
  fusco_balance balance;

  FUSCO_ON_BOTH uint64_t maxEntries() const { return uint64_t{maxTokens} * topk; }
  // Tokens of all other ranks, at most.
  FUSCO_ON_BOTH uint64_t maxRemoteTokens() const { return uint64_t{ranks - 1} * maxTokens; }
  FUSCO_ON_BOTH bool hasQuotas() const { return groups > 0; }
};

// What planning finds, in device memory.
struct PlanState {
  uint64_t badEntry;  // entry << 2 | BadId of the first bad id; UINT64_MAX: none
  uint64_t badValue;  // that id, sign-extended
  uint32_t tokens;
  uint32_t masked;
  uint32_t recvRows;      // rows of the receive buffer, not clipped
  uint32_t overflowRows;  // real rows at or beyond maxRecvRows
  uint32_t stageRows;
  uint32_t staged;
  uint32_t rule;        // fusco_balance
  uint32_t idDtype;     // fusco_id_dtype, of badValue
  uint32_t barrier[2];  // DispatchParams::barrier
  uint32_t told;        // ranks of the device that have told their rows per node; of its first rank
};

// Addresses in one plan buffer.
struct PlanBuffer {
  PlanState *state;
  uint32_t *counts;    // [ranks, targets]: the gathered facts
  uint32_t *nodeRows;  // [ranks, nodes], likewise
  uint32_t *tokens;    // [ranks], likewise
  uint32_t *quotas;    // [ranks, instances], rows before the capacity; none without quotas

  uint32_t *blockRow;       // [instances]
  uint32_t *runRow;         // [instances]: S_SEND_ROW
  uint32_t *runRows;        // [instances]: S_SEND_ROWS
  uint32_t *position;       // [instances], first position of each direct run in the send order
  uint32_t *expertOffset;   // [local + 1]: S_EXPERT_OFFSET
  uint32_t *expertRows;     // [local]: S_EXPERT_ROWS
  uint32_t *clippedOffset;  // [local + 1], at most maxRecvRows
  uint32_t *clippedRows;    // [local], at most what fits below maxRecvRows
  uint32_t *recvRow;        // [local, ranks]: S_RUN_ROW
  uint32_t *recvRows;       // [local, ranks]: S_RUN_ROWS

  uint16_t *instance;   // [tokens, topk]: S_ENTRY_INSTANCE
  int32_t *slot;        // [tokens, topk]: S_ENTRY_SLOT
  Place *place;         // [tokens, topk]: the rank and the slot, clipped, of each entry
  uint32_t *sendEntry;  // [direct rows]: S_SEND_ENTRY

  uint16_t *railGroups;   // [ranks]
  uint32_t *forwarder;    // [nodes]
  uint32_t *landingRow;   // [nodes]: S_FORWARD_ROW
  uint32_t *firstRow;     // [nodes]
  uint32_t *firstEntry;   // [nodes]
  uint32_t *sourceRow;    // [ranks]: S_STAGE_ROW
  uint32_t *sourceRows;   // [ranks]: S_STAGE_ROWS
  uint32_t *token;        // [forwarded]: S_FORWARD_TOKEN
  int32_t *target;        // [forwarded]: S_FORWARD_TARGET
  uint32_t *offset;       // [forwarded + 1]: S_DISTRIBUTE_OFFSET
  uint32_t *distributed;  // [distributed]: S_DISTRIBUTE_ENTRY

  // What exchanges read besides `place`, as if the rank were alone on its device. The last three, and the two
  // of arrivals, are filled where other devices, or other processes, take part.
  DevicePlanHead *head;    // [1]
  PaddingRange *paddings;  // [local], as many as the head says
  OnePassHead *onePass;    // [1]
  Place *send;             // [tokens, topk]: OnePassTables::send
  SumTerm *terms;          // [tokens, topk]: OnePassTables::terms

  // Work of planning; unused afterwards.
  uint64_t *tileBad;       // [tiles], as PlanState::badEntry
  uint32_t *tileCounts;    // [targets, tiles]
  uint32_t *tileRows;      // [nodes, tiles], forwarded rows
  uint32_t *tileEntries;   // [nodes, tiles], distributed entries
  uint32_t *nodeEntries;   // [nodes]
  uint16_t *toNode;        // [tokens, topk], node to which each entry's row is forwarded, or noNode
  uint32_t *before;        // [instances]
  uint32_t *totals;        // [instances]
  int64_t *quotaWords;     // see quotaTables
  uint32_t *quotaIndices;  // likewise

  uint32_t *arrival;     // [ranks - 1, maxTokens, topk]: OnePassTables::arrival
  uint32_t *arrivalRow;  // [ranks - 1, maxTokens]: OnePassTables::arrivalRow
};

// Lays arrays one after the other, at multiples of planBufferAlign.
struct TableLayout {
  uint8_t *base;
  uint64_t at = 0;  // bytes so far

  template <class T>
  FUSCO_ON_BOTH void take(T *&pointer, uint64_t count) {
    pointer = reinterpret_cast<T *>(reinterpret_cast<uintptr_t>(base) + at);
    at = (at + count * sizeof(T) + planBufferAlign - 1) / planBufferAlign * planBufferAlign;
  }
};

// Fills `buffer` for a plan buffer at `base`. Returns its bytes.
FUSCO_ON_BOTH inline uint64_t layPlanBuffer(const PlanSizes &sizes, uint8_t *base, PlanBuffer &buffer) {
  TableLayout memory{base};
  const auto take = [&memory](auto *&pointer, uint64_t count) { memory.take(pointer, count); };
  const uint64_t entries = sizes.maxEntries();
  const uint64_t forwarded = sizes.isFlat != 0 ? 0 : entries;
  const uint32_t nodes = sizes.isFlat != 0 ? 0 : sizes.nodes;
  const uint32_t members = sizes.isFlat != 0 ? 0 : sizes.ranks;
  const uint32_t quotas = sizes.hasQuotas() ? 1 : 0;
  take(buffer.state, 1);
  take(buffer.counts, uint64_t{sizes.ranks} * sizes.targets);
  take(buffer.nodeRows, uint64_t{sizes.ranks} * nodes);
  take(buffer.tokens, sizes.ranks);
  take(buffer.quotas, uint64_t{quotas} * sizes.ranks * sizes.instances);
  take(buffer.blockRow, sizes.instances);
  take(buffer.runRow, sizes.instances);
  take(buffer.runRows, sizes.instances);
  take(buffer.position, sizes.instances);
  take(buffer.expertOffset, sizes.maxLocal + 1);
  take(buffer.expertRows, sizes.maxLocal);
  take(buffer.clippedOffset, sizes.maxLocal + 1);
  take(buffer.clippedRows, sizes.maxLocal);
  take(buffer.recvRow, uint64_t{sizes.maxLocal} * sizes.ranks);
  take(buffer.recvRows, uint64_t{sizes.maxLocal} * sizes.ranks);
  take(buffer.instance, entries);
  take(buffer.slot, entries);
  take(buffer.place, entries);
  take(buffer.sendEntry, entries);
  take(buffer.railGroups, members);
  take(buffer.forwarder, nodes);
  take(buffer.landingRow, nodes);
  take(buffer.firstRow, nodes);
  take(buffer.firstEntry, nodes);
  take(buffer.sourceRow, members);
  take(buffer.sourceRows, members);
  take(buffer.token, forwarded);
  take(buffer.target, forwarded);
  take(buffer.offset, forwarded + 1);
  take(buffer.distributed, forwarded);
  take(buffer.head, 1);
  take(buffer.paddings, sizes.maxLocal);
  take(buffer.onePass, 1);
  take(buffer.send, entries);
  take(buffer.terms, entries);
  take(buffer.tileBad, sizes.tiles);
  take(buffer.tileCounts, uint64_t{sizes.targets} * sizes.tiles);
  take(buffer.tileRows, uint64_t{nodes} * sizes.tiles);
  take(buffer.tileEntries, uint64_t{nodes} * sizes.tiles);
  take(buffer.nodeEntries, nodes);
  take(buffer.toNode, forwarded);
  take(buffer.before, sizes.instances);
  take(buffer.totals, sizes.instances);
  take(buffer.quotaWords,
       quotas * (2 * uint64_t{sizes.instances} + 2 * uint64_t{sizes.groups} + 2 * uint64_t{sizes.ranks}));
  take(buffer.quotaIndices, quotas * (uint64_t{sizes.experts} + sizes.groups + 4 * uint64_t{sizes.ranks}));
  take(buffer.arrival, sizes.maxRemoteTokens() * sizes.topk);
  take(buffer.arrivalRow, sizes.maxRemoteTokens());
  return memory.at;
}

// The tables of a plan buffer at `base`. `offsets`: those of one at address 0, so that kernels need not lay
// them out.
FUSCO_ON_BOTH inline PlanBuffer tablesAt(const PlanBuffer &offsets, uint8_t *base) {
  uintptr_t addresses[sizeof(PlanBuffer) / sizeof(uintptr_t)];
  memcpy(addresses, &offsets, sizeof addresses);
  for (uintptr_t &address : addresses) address += reinterpret_cast<uintptr_t>(base);
  PlanBuffer buffer;
  memcpy(&buffer, addresses, sizeof buffer);
  return buffer;
}

// What a rank tells another one: addresses in the plan buffer of the other rank, or in the memory that takes
// the facts of other processes.
struct Facts {
  uint32_t *counts;      // [targets]
  uint32_t *tokens;      // [1]
  uint32_t *nodeRows;    // [nodes], hierarchical plans only
  uint32_t *arrival;     // [tokens, topk], where the other rank is on another device
  uint32_t *arrivalRow;  // [tokens], likewise
};

// Fills what is told before the begin edge of a plan, for memory at `base`. Returns its bytes.
FUSCO_ON_BOTH inline uint64_t layCounts(const PlanSizes &sizes, uint8_t *base, Facts &facts) {
  TableLayout memory{base};
  memory.take(facts.counts, sizes.targets);
  memory.take(facts.tokens, 1);
  return memory.at;
}

// The same for what is told between the two edges.
FUSCO_ON_BOTH inline uint64_t layArrivals(const PlanSizes &sizes, uint8_t *base, Facts &facts) {
  TableLayout memory{base};
  memory.take(facts.nodeRows, sizes.isFlat != 0 ? 0 : sizes.nodes);
  memory.take(facts.arrival, sizes.maxEntries());
  memory.take(facts.arrivalRow, sizes.maxTokens);
  return memory.at;
}

// Where one rank takes the facts of all processes. A process writes the counts of a plan only after the
// others have read those of the plan before, and the rest likewise: test/model/plan_facts.pml. It may write
// counts while others read the rest, and the next plan may have other sizes, so that the two never share
// memory.
struct FactInbox {
  uint8_t *counts;
  uint8_t *arrivals;

  FUSCO_ON_BOTH Facts of(const PlanSizes &sizes, uint32_t from) const {
    Facts facts;
    layCounts(sizes, counts + from * layCounts(sizes, nullptr, facts), facts);
    layArrivals(sizes, arrivals + from * layArrivals(sizes, nullptr, facts), facts);
    return facts;
  }
};

// Bytes of the two parts of an inbox.
struct FactBytes {
  uint64_t counts = 0;
  uint64_t arrivals = 0;
};
FUSCO_ON_BOTH inline FactBytes factBytes(const PlanSizes &sizes) {
  Facts unused{};
  return {sizes.ranks * layCounts(sizes, nullptr, unused), sizes.ranks * layArrivals(sizes, nullptr, unused)};
}

// Tables of the placement in the memory of one device, the same for all plans of a planner.
struct PlacementTables {
  const uint32_t *rankFirst;       // [ranks + 1]
  const uint16_t *instanceRank;    // [instances]
  const uint16_t *instanceNode;    // [instances]
  const uint16_t *instanceExpert;  // [instances]
  const uint32_t *hostFirst;       // [experts + 1], first place of each expert in `hosts`
  const uint16_t *hosts;           // [instances], instances by (expert, rank)
  const uint32_t *groupFirst;      // [groups + 1]
  const uint32_t *groupOf;         // [instances]
};

// The tables of quota-1 in a plan buffer, with its scratch zero where that is needed.
FUSCO_ON_BOTH inline planning::QuotaTables quotaTables(const PlanSizes &sizes,
                                                       const PlacementTables &placement,
                                                       const PlanBuffer &buffer) {
  planning::QuotaTables tables{};
  tables.ranks = sizes.ranks;
  tables.experts = sizes.experts;
  tables.instances = sizes.instances;
  tables.groups = sizes.groups;
  tables.ranksPerNode = sizes.ranksPerNode;
  tables.rankFirst = placement.rankFirst;
  tables.instanceRank = placement.instanceRank;
  tables.instanceExpert = placement.instanceExpert;
  tables.first = placement.hostFirst;
  tables.list = placement.hosts;
  tables.groupFirst = placement.groupFirst;
  tables.groupOf = placement.groupOf;
  tables.counts = buffer.counts;
  tables.stride = sizes.targets;
  tables.quotas = buffer.quotas;
  int64_t *words = buffer.quotaWords;
  const auto take = [](auto *&from, uint32_t count) {
    auto *first = from;
    from += count;
    return first;
  };
  tables.start = take(words, sizes.instances);
  tables.rows = take(words, sizes.instances);
  tables.demand = take(words, sizes.groups);
  tables.held = take(words, sizes.groups);
  tables.load = take(words, sizes.ranks);
  tables.left = take(words, sizes.ranks);
  uint32_t *indices = buffer.quotaIndices;
  tables.rankSeen = take(indices, sizes.ranks);
  tables.expertSeen = take(indices, sizes.experts);
  tables.groupSeen = take(indices, sizes.groups);
  for (uint32_t *seen = tables.rankSeen; seen != indices; seen++) *seen = 0;
  tables.queue = take(indices, sizes.ranks);
  tables.to = take(indices, sizes.ranks);
  tables.from = reinterpret_cast<int32_t *>(take(indices, sizes.ranks));
  return tables;
}

}  // namespace fusco::cuda
