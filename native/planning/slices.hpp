// Slices of a send order: in round j every peer's j-th slice, peers in the order local, local + 1, … modulo
// their number, so that no two ranks start with the same peer.
#pragma once

#include <vector>

#include "checked_shard.hpp"

namespace fusco::planning {

class Slices {
 public:
  // `rows` [peers]: the part of each peer in the send order. The first peer is rank or node `first`; this
  // rank or node is peer number `local`.
  Slices(std::vector<RowRange> rows, uint32_t first, uint32_t local, uint32_t sliceRows)
      : rows_(std::move(rows)), first_(first), local_(local), sliceRows_(sliceRows) {
    for (const RowRange &peer : rows_) {
      if (peer.rows != 0) count_ += (peer.rows - 1) / sliceRows_ + 1;
    }
  }

  uint64_t count() const { return count_; }

  // Writes {peer, first row, rows} of each slice in the order of issue.
  void write(uint32_t *to) const {
    const uint32_t *end = to + FUSCO_SLICE_WORDS * count_;
    const auto peers = static_cast<uint32_t>(rows_.size());
    for (uint32_t done = 0; to < end; done += sliceRows_) {
      for (uint32_t i = 0; i < peers; i++) {
        const uint32_t peer = local_ + i < peers ? local_ + i : local_ + i - peers;
        const auto [row, rows] = rows_[peer];
        if (done >= rows) continue;
        to[0] = first_ + peer;
        to[1] = row + done;
        to[2] = rows - done < sliceRows_ ? rows - done : sliceRows_;
        to += FUSCO_SLICE_WORDS;
      }
    }
  }

 private:
  std::vector<RowRange> rows_;
  uint32_t first_, local_, sliceRows_;
  uint64_t count_ = 0;
};

}  // namespace fusco::planning
