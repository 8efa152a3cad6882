// Passes over a rank's entries, one call per entry. Every list of a plan is a stable counting sort of
// entries:
//
//   slots and send order    by instance
//   forwarded rows          row leaders, by node
//   distribution lists      entries for other nodes, by node
//
// A pass gets an entry's position among those with the same key, in the order of entries. On the host a loop
// over all entries counts it; on the device warps do, each for a tile of entries.
#pragma once

#include "checked_shard.hpp"
#include "plan_layout.h"
#include "plan_types.hpp"

namespace fusco::planning {

// The key of an entry that a list leaves out.
constexpr uint32_t noKey = UINT32_MAX;

// A rank's runs, as its entries see them.
struct EntryTables {
  uint32_t masked;       // instance of an entry without an expert
  uint32_t directFirst;  // instances [directFirst, directEnd) get their rows without a forwarder
  uint32_t directEnd;
  const uint32_t *runRow;    // [instances]: S_SEND_ROW
  const uint32_t *runRows;   // [instances]: S_SEND_ROWS
  const uint32_t *position;  // [instances]: position of each direct run in the send order
  uint16_t *instance;        // [tokens, topk]
  int32_t *slot;             // [tokens, topk]
  uint32_t *sendEntry;       // [direct rows]
};

// The list by instance.
FUSCO_ON_BOTH inline uint32_t instanceKey(const EntryTables &tables, uint32_t entry) {
  const uint32_t instance = tables.instance[entry];
  return instance == tables.masked ? noKey : instance;
}

FUSCO_ON_BOTH inline void markMasked(const EntryTables &tables, uint32_t entry) {
  tables.slot[entry] = FUSCO_SLOT_MASKED;
}

// `position` is that of the entry in its run. The last rows of a run are those beyond the capacity.
FUSCO_ON_BOTH inline void placeEntry(const EntryTables &tables, uint32_t entry, uint32_t instance,
                                     uint32_t position) {
  if (position >= tables.runRows[instance]) {
    tables.slot[entry] = FUSCO_SLOT_DROPPED;
    return;
  }
  tables.slot[entry] = static_cast<int32_t>(tables.runRow[instance] + position);
  if (instance - tables.directFirst >= tables.directEnd - tables.directFirst) return;
  tables.sendEntry[tables.position[instance] + position] = entry;
}

// Position of an entry in the order of stores of its tile, whose entries are [first, end): by (instance,
// slot), masked and dropped ones last.
FUSCO_ON_BOTH inline uint32_t tilePosition(const uint16_t *instance, const int32_t *slot, uint32_t first,
                                           uint32_t end, uint32_t entry) {
  const auto keyOf = [=](uint32_t of) {
    return slot[of] < 0 ? UINT64_MAX : uint64_t{instance[of]} << 32 | static_cast<uint32_t>(slot[of]);
  };
  const uint64_t key = keyOf(entry);
  uint32_t position = 0;
  for (uint32_t other = first; other < end; other++) {
    const uint64_t otherKey = keyOf(other);
    position += otherKey < key || (otherKey == key && other < entry) ? 1 : 0;
  }
  return position;
}

// What a rank knows of its forwarders, and the lists that it fills; hierarchical plans only.
struct ForwardLists {
  uint32_t topk;
  uint32_t localNode;
  const uint16_t *instance;      // [tokens, topk]
  const int32_t *slot;           // [tokens, topk]
  const uint16_t *instanceRank;  // [instances]
  const uint16_t *instanceNode;  // [instances]
  const uint32_t *forwarder;     // [nodes], the rank that forwards there
  const uint32_t *landingRow;    // [nodes], S_FORWARD_ROW
  const uint32_t *firstRow;      // [nodes], first of the node's forwarded rows
  const uint32_t *firstEntry;    // [nodes], first of the node's distributed entries
  uint32_t *token;               // [forwarded], S_FORWARD_TOKEN
  int32_t *target;               // [forwarded], S_FORWARD_TARGET
  uint32_t *offset;              // [forwarded + 1], S_DISTRIBUTE_OFFSET but its last element
  uint32_t *entry;               // [distributed], S_DISTRIBUTE_ENTRY
};

// The list of distributed entries: the node of an entry whose row is forwarded.
FUSCO_ON_BOTH inline uint32_t forwardKey(const ForwardLists &lists, uint32_t entry) {
  if (lists.slot[entry] < 0) return noKey;
  const uint32_t node = lists.instanceNode[lists.instance[entry]];
  return node == lists.localNode ? noKey : node;
}

// The list of forwarded rows, given forwardKey: each is led by the entry of its token and node with the
// lowest k. `first` is the first entry of the token.
FUSCO_ON_BOTH inline bool leadsRow(const ForwardLists &lists, uint32_t first, uint32_t entry, uint32_t node) {
  for (uint32_t other = first; other < entry; other++) {
    if (forwardKey(lists, other) == node) return false;
  }
  return true;
}

// The lowest slot of a row at its forwarder, where it can land; else its landing row, negative. `row` counts
// the node's forwarded rows, `end` ends the entries of the token.
FUSCO_ON_BOTH inline int32_t landingTarget(const ForwardLists &lists, uint32_t leader, uint32_t end,
                                           uint32_t node, uint32_t row) {
  // As unsigned numbers landing rows are above all slots.
  auto target = ~(lists.landingRow[node] + row);
  for (uint32_t other = leader; other < end; other++) {
    const int32_t slot = lists.slot[other];
    if (slot < 0 || lists.instanceRank[lists.instance[other]] != lists.forwarder[node]) continue;
    if (static_cast<uint32_t>(slot) < target) target = static_cast<uint32_t>(slot);
  }
  return static_cast<int32_t>(target);
}

// Writes a distributed entry; `position` counts those of the node.
FUSCO_ON_BOTH inline void distributeEntry(const ForwardLists &lists, uint32_t entry, uint32_t node,
                                          uint32_t position) {
  lists.entry[lists.firstEntry[node] + position] = entry;
}

// Writes the forwarded row of a leader of the token; `row` and `position` count the node's rows and
// distributed entries. Returns whether the row needs a landing row.
FUSCO_ON_BOTH inline bool forwardRow(const ForwardLists &lists, uint32_t token, uint32_t leader,
                                     uint32_t node, uint32_t row, uint32_t position) {
  const uint32_t at = lists.firstRow[node] + row;
  lists.token[at] = token;
  lists.offset[at] = lists.firstEntry[node] + position;
  lists.target[at] = landingTarget(lists, leader, (token + 1) * lists.topk, node, row);
  return lists.target[at] < 0;
}

}  // namespace fusco::planning
