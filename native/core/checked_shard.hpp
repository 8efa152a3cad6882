// The one interpretation of a shard's sections, for every backend. What it returns is proven: indices are in
// range, no two entries share a row, and every row that the shard says is sent has an entry. Backends lay the
// results out and check nothing again. Time and memory are linear in the shard's entries, rows and instances.
#pragma once

#include <vector>

#include "failure.hpp"
#include "plan_types.hpp"
#include "shard.hpp"

namespace fusco {

// Consecutive rows of a receive buffer.
struct RowRange {
  uint32_t first;
  uint32_t rows;
};

// The sizes of one rank's part of a plan, and where its entries go.
struct RankPlan {
  uint32_t tokens = 0;
  uint32_t recvRows = 0;
  uint32_t kept = 0;
  std::vector<Place> places;      // [tokens, topk]: the peer is the rank that hosts the entry's instance
  std::vector<RowRange> padding;  // of the receive buffer, ascending
};

// An entry, for errors.
struct Entry {
  uint32_t rank;  // its source
  size_t number;  // token * topk + k
  uint32_t instance;
  uint32_t slot;
};

// `what` completes "entry … of rank …, instance … slot …, ".
Failure badEntry(fusco_status status, const char *what, const Entry &entry);

// The rows that one rank sends to each instance, from S_SEND_ROW and S_SEND_ROWS. They prove entries by one
// shard alone: an entry's slot is the next row of its run, so that no two entries of this rank share a slot.
class SendRuns {
 public:
  explicit SendRuns(std::vector<RowRange> runs) : runs_(std::move(runs)), sent_(runs_.size(), 0) {}

  const RowRange &of(uint32_t instance) const { return runs_[instance]; }
  // Returns the position of an entry of `rank` in its run; to be called for all kept entries in ascending
  // order. Throws E_SEGMENT_BOUNDS.
  uint32_t next(uint32_t rank, size_t number, uint32_t instance, uint32_t slot) {
    const RowRange &run = runs_[instance];
    uint32_t &sent = sent_[instance];
    if (sent >= run.rows || slot != run.first + sent) {
      throw badEntry(FUSCO_E_SEGMENT_BOUNDS, "is not the next row of its run",
                     {rank, number, instance, slot});
    }
    return sent++;
  }
  // Throws E_SHARD_HEAD unless every row of every run had its entry.
  void checkAllSent(uint32_t rank) const;

 private:
  std::vector<RowRange> runs_;  // [instances]
  std::vector<uint32_t> sent_;  // [instances]
};

// The rows that one rank sends once to a forwarder on each other node, by node and token.
struct ForwardedRows {
  std::vector<uint32_t> rowsOfNode;  // [nodes]; 0 for the rank's own node
  std::vector<uint32_t> token;       // [rows], ascending in each node
  std::vector<int32_t> target;       // [rows], S_FORWARD_TARGET: unchecked
  // [rows + 1]: row i is for entries entry[offset[i]] to entry[offset[i + 1] - 1] of its token and node.
  std::vector<uint32_t> offset;
  std::vector<uint32_t> entry;  // all kept entries for other nodes, each once
};

class CheckedShard : private ShardReader {
 public:
  // Throws E_SHARD_LAYOUT, E_SHARD_HEAD, E_RANKS or E_LIMIT. The shard's bytes must outlive the object.
  CheckedShard(const fusco_buffer &shard, uint32_t rank, uint32_t ranks)
      : ShardReader(shard, rank, ranks), ranks_(ranks) {}

  using ShardReader::entries;
  using ShardReader::refused;
  using ShardReader::word;
  // `what` completes "forwarded row … of rank … ".
  Failure badForward(const char *what, size_t row) const;

  // The real rows of each block of the receive buffer, and the sizes and padding of `part`. Blocks are in
  // order, do not overlap and end with the buffer. Throws E_SHARD_HEAD unless the rank's instances start at
  // `firstInstance`, or E_SEGMENT_BOUNDS.
  std::vector<RowRange> readBlocks(uint64_t firstInstance, RankPlan &part) const;

  // Fills places and kept of `part`. `ownerOf(number, instance, slot)` proves the slot of each kept entry, in
  // ascending order, and returns the rank that hosts its instance. The instance is one of the plan's. Throws
  // E_ENTRY, E_SEGMENT_BOUNDS, or E_SHARD_HEAD where the counts are not those of the head.
  template <class Owner>
  void readEntries(RankPlan &part, Owner ownerOf) const {
    const auto slots = elements<int32_t>(FUSCO_S_ENTRY_SLOT);
    const auto instances = elements<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
    part.places.resize(slots.size());
    const uint32_t instanceCount = word(FUSCO_W_INSTANCES);
    Place *places = part.places.data();
    EntryCounts others;
    for (size_t entry = 0; entry < slots.size(); entry++) {
      const int32_t slot = slots[entry];
      const uint32_t instance = instances[entry];
      if (slot >= 0 && instance < instanceCount) {
        places[entry] = {ownerOf(entry, instance, static_cast<uint32_t>(slot)), slot};
        continue;
      }
      // Nearly all entries are kept: what the others may be is looked at elsewhere.
      countOther({rank_, entry, instance, static_cast<uint32_t>(slot)}, others);
      places[entry] = {0, slot};
    }
    part.kept = static_cast<uint32_t>(slots.size() - others.masked - others.dropped);
    checkCounts(part.kept, others);
  }

  // Where each source's rows are received, [blocks, ranks]: runs of a block follow one another by source and
  // fill its real rows, so that no two rows are stored at one slot. Throws E_SHARD_HEAD, E_SEGMENT_BOUNDS.
  std::vector<RowRange> receiveRuns(const std::vector<RowRange> &blocks) const;
  SendRuns sendRuns() const;

  // [ranks]: forwarded rows that this rank receives from each source. Throws E_SHARD_HEAD.
  std::vector<uint32_t> landingRows() const { return exactly<uint32_t>(FUSCO_S_STAGE_ROWS, ranks_); }
  // `places` are those of this rank, from readEntries. Throws E_SHARD_HEAD, E_SEGMENT_BOUNDS.
  ForwardedRows forwardedRows(uint32_t ranksPerNode, const std::vector<Place> &places) const;

  // The order of stores inside each tile of W_TILE_TOKENS tokens, [entries]: a permutation of each tile's
  // entries. Empty without tiles. Throws E_SHARD_HEAD, E_ENTRY.
  std::vector<uint8_t> tileOrder() const;

 private:
  struct EntryCounts {
    uint32_t masked = 0, dropped = 0;
  };
  // Throws E_SEGMENT_BOUNDS, E_ENTRY unless the entry is masked or dropped.
  void countOther(const Entry &entry, EntryCounts &counts) const;
  void checkCounts(uint32_t kept, const EntryCounts &others) const;

  // A section that must have this many elements.
  template <class T>
  std::vector<T> exactly(int index, uint64_t elements) const {
    expectCount(index, elements);
    return section<T>(index);
  }
  std::vector<RowRange> ranges(int firstSection, int rowsSection, uint64_t elements) const;

  uint32_t ranks_;
};

// Throws E_RANKS unless `ranksPerNode` divides `ranks`.
void checkRanksPerNode(uint32_t ranksPerNode, uint32_t ranks);

// The order of combine's additions. Throws E_BACKEND for an unknown strategy, E_OPTION for an unknown kind or
// order of sums.
Tree treeOf(fusco_strategy strategy, fusco_partial partial, fusco_sum sum);

// The rank of `node` in the rail group of `rank`, which forwards its rows there. `groups` [ranks]. Throws
// E_SHARD_HEAD.
uint32_t forwarderOf(const uint16_t *groups, uint32_t ranksPerNode, uint32_t rank, uint32_t node);

}  // namespace fusco
