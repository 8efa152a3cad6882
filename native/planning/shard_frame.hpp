// What a shard has around a rank's tables and lists: the places of its sections, its head, its slices, and
// the order of stores in tiles. It is written from tables in host memory, wherever those were made.
#pragma once

#include "shard_layout.hpp"
#include "slices.hpp"
#include "spec.hpp"

namespace fusco::planning {

// Throws E_BUFFER unless a shard of `needed` bytes fits.
void checkShardBuffer(const fusco_buffer &shard, uint32_t rank, uint64_t needed);

class ShardFrame {
 public:
  // `runRows` [instances]: S_SEND_ROWS. `nodeRows` [nodes]: S_FORWARD_ROWS, null in flat plans. Both are read
  // now only. Throws E_LIMIT.
  ShardFrame(const Spec &spec, uint32_t rank, uint32_t tokens, const uint32_t *runRows,
             const uint32_t *nodeRows);

  uint64_t bytes() const { return layout_.bytes(); }
  template <class T>
  T *at(uint8_t *shard, int section) const {
    return layout_.at<T>(shard, section);
  }
  // Elements of a section.
  uint64_t elements(int section) const { return layout_.counts[section]; }

  uint32_t firstInstance() const { return spec_.placement.rankFirst[rank_]; }
  uint32_t localInstances() const { return spec_.placement.rankFirst[rank_ + 1] - firstInstance(); }
  uint64_t entries() const { return uint64_t{tokens_} * spec_.topk; }
  uint64_t kept() const { return kept_; }
  uint64_t directRows() const { return directRows_; }
  uint64_t forwardedRows() const { return forwardedRows_; }

  // Zeros the head and all gaps. Before anything is written.
  void clearGaps(uint8_t *shard) const { layout_.clearGaps(shard); }
  // S_SLICE and S_FORWARD_SLICE.
  void writeSlices(uint8_t *shard) const;
  // S_TILE_ORDER, if the spec asks for it, from the entries' instances and slots.
  void orderTiles(uint8_t *shard) const;

  struct HeadCounts {
    uint32_t recvRows;
    uint32_t masked;
    uint32_t stageRows;  // 0 in flat plans, as is the next
    uint32_t staged;
  };
  void writeHead(uint8_t *shard, const HeadCounts &counts) const;

 private:
  Slices directSlices(const uint32_t *runRows) const;
  Slices forwardSlices(const uint32_t *nodeRows) const;
  void countSections(bool isFlat);

  const Spec &spec_;
  uint32_t rank_;
  uint32_t tokens_;
  DirectRange direct_;
  uint64_t kept_ = 0;
  uint64_t directRows_ = 0;
  uint64_t forwardedRows_ = 0;
  Slices slices_;
  Slices forwardSlices_;
  ShardLayout layout_;
};

}  // namespace fusco::planning
