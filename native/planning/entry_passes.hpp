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

// What placeEntry reads of an instance. On the device all of it is loaded at the same time.
struct EntryRun {
  uint32_t row;
  uint32_t rows;
  uint32_t position;  // of a direct run
  bool isDirect;
};

FUSCO_ON_BOTH inline EntryRun entryRun(const EntryTables &tables, uint32_t instance) {
  return {tables.runRow[instance], tables.runRows[instance], tables.position[instance],
          instance - tables.directFirst < tables.directEnd - tables.directFirst};
}

// `position` is that of the entry in its run. The last rows of a run are those beyond the capacity. Returns
// the slot.
FUSCO_ON_BOTH inline int32_t placeEntry(const EntryTables &tables, uint32_t entry, const EntryRun &run,
                                        uint32_t position) {
  if (position >= run.rows) {
    tables.slot[entry] = FUSCO_SLOT_DROPPED;
    return FUSCO_SLOT_DROPPED;
  }
  const auto slot = static_cast<int32_t>(run.row + position);
  tables.slot[entry] = slot;
  if (run.isDirect) tables.sendEntry[run.position + position] = entry;
  return slot;
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

// The node of an entry whose row is not forwarded.
constexpr uint16_t noNode = UINT16_MAX;

// The list of distributed entries: the node to which an entry's row is forwarded, or noNode. `node`: that of
// the entry's instance, if it has a slot.
FUSCO_ON_BOTH inline uint16_t forwardNode(int32_t slot, uint32_t node, uint32_t localNode) {
  return slot < 0 || node == localNode ? noNode : static_cast<uint16_t>(node);
}

// The list of forwarded rows: each is led by the entry of its token and node with the lowest k. `nodes`
// [topk]: forwardNode of the token's entries; that of entry `k` is a node.
FUSCO_ON_BOTH inline bool leadsRow(const uint16_t *nodes, uint32_t k) {
  const uint16_t node = nodes[k];
  // Without an early end, so that loads of several entries overlap on the device.
  bool leads = true;
  for (uint32_t other = 0; other < k; other++) {
    const bool isSame = nodes[other] == node;
    leads = leads && !isSame;
  }
  return leads;
}

// What a rank knows of its forwarders, and the lists that it fills; hierarchical plans only.
struct ForwardLists {
  uint32_t topk;
  const uint32_t *forwarder;   // [nodes], the rank that forwards there
  const uint32_t *landingRow;  // [nodes], S_FORWARD_ROW
  const uint32_t *firstRow;    // [nodes], first of the node's forwarded rows
  const uint32_t *firstEntry;  // [nodes], first of the node's distributed entries
  uint32_t *token;             // [forwarded], S_FORWARD_TOKEN
  int32_t *target;             // [forwarded], S_FORWARD_TARGET
  uint32_t *offset;            // [forwarded + 1], S_DISTRIBUTE_OFFSET but its last element
  uint32_t *entry;             // [distributed], S_DISTRIBUTE_ENTRY
};

// The lowest slot of a row at its forwarder, where it can land; else its landing row, negative. `leader`: the
// k of the entry that leads the row; `placeOf(k)`: the rank and the slot of each entry of the token; `row`
// counts the node's forwarded rows.
template <class PlaceOf>
FUSCO_ON_BOTH int32_t landingTarget(const ForwardLists &lists, PlaceOf placeOf, uint32_t leader,
                                    uint32_t node, uint32_t row) {
  // As unsigned numbers landing rows are above all slots.
  auto target = ~(lists.landingRow[node] + row);
  const uint32_t forwarder = lists.forwarder[node];
  for (uint32_t k = leader; k < lists.topk; k++) {
    const Place place = placeOf(k);
    if (place.row < 0 || place.peer != forwarder) continue;
    if (static_cast<uint32_t>(place.row) < target) target = static_cast<uint32_t>(place.row);
  }
  return static_cast<int32_t>(target);
}

// Writes a distributed entry; `position` counts those of the node.
FUSCO_ON_BOTH inline void distributeEntry(const ForwardLists &lists, uint32_t entry, uint32_t node,
                                          uint32_t position) {
  lists.entry[lists.firstEntry[node] + position] = entry;
}

// Writes the forwarded row of a token that entry `leader` of it leads; `row` and `position` count the node's
// rows and distributed entries. Returns whether the row needs a landing row.
template <class PlaceOf>
FUSCO_ON_BOTH bool forwardRow(const ForwardLists &lists, PlaceOf placeOf, uint32_t token, uint32_t leader,
                              uint32_t node, uint32_t row, uint32_t position) {
  const uint32_t at = lists.firstRow[node] + row;
  const int32_t target = landingTarget(lists, placeOf, leader, node, row);
  lists.token[at] = token;
  lists.offset[at] = lists.firstEntry[node] + position;
  lists.target[at] = target;
  return target < 0;
}

}  // namespace fusco::planning
