// The order in which rows cross the wire: pure arithmetic, the same on every rank, no CUDA and no NCCL.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

namespace fusco::nccl {

// Rows `first` to `first + rows` of some buffer.
struct Run {
  uint64_t first;
  uint32_t rows;
};

// The order of rows in one direction between a rank and its peers: those of each peer are its runs, one after
// the other. Sender and receiver know the same lengths, each with its own first rows. Rows are numbered over
// all peers, in ascending order.
class SendOrder {
 public:
  explicit SendOrder(uint32_t ranks) : runs_(ranks), start_(ranks + 1, 0) {}

  void append(uint32_t peer, Run run) {
    if (run.rows > 0) runs_[peer].push_back(run);
  }
  // Numbers the rows; after the last append.
  void close();

  uint32_t ranks() const { return static_cast<uint32_t>(runs_.size()); }
  uint32_t rows(uint32_t peer) const { return static_cast<uint32_t>(start_[peer + 1] - start_[peer]); }
  // First row of a peer among the rows of all peers.
  uint64_t start(uint32_t peer) const { return start_[peer]; }
  uint64_t total() const { return start_.back(); }
  const std::vector<Run> &runs(uint32_t peer) const { return runs_[peer]; }

  // [ranks]: bytes of each peer's rows.
  std::vector<uint64_t> bytesByPeer(uint64_t rowBytes) const;

  // Calls `piece` for each contiguous part of rows [first, first + rows) of the peer's rows, in order.
  void forEachPiece(uint32_t peer, uint32_t first, uint32_t rows,
                    const std::function<void(Run)> &piece) const;

 private:
  std::vector<std::vector<Run>> runs_;
  std::vector<uint64_t> start_;
};

// Rows [first, first + rows) of a peer's rows; in a ring segment they begin at row `at`.
struct Slice {
  uint32_t peer;
  uint32_t first;
  uint32_t rows;
  uint32_t at;
};

// What one rank does in one round, which is one NCCL group. A rank leaves out rounds in which it does
// nothing.
struct Round {
  uint32_t index;   // of the slices that it moves, in each peer's send order
  uint32_t offset;  // of the first peer: all ranks order rounds by (index, offset)
  std::vector<Slice> send;
  std::vector<Slice> receive;
  uint32_t sendRows = 0;
  uint32_t receiveRows = 0;
};

/*
 * With index j a rank sends the j-th slice of every peer's rows, in the order of offsets 1, 2, …: to rank +
 * o and from rank - o. Several offsets share a round, the same ones on all ranks. Since both sides of a slice
 * have it in the same round and all ranks go through the rounds in one order, no wait can be circular.
 */
std::vector<Round> makeRounds(uint32_t rank, const SendOrder &send, const SendOrder &receive,
                              uint32_t sliceRows, uint32_t peersPerRound);

// What the length of a slice follows from; identical on all ranks.
struct SliceRule {
  uint32_t planRows;       // of the plan's slices, which are not cut
  uint32_t mostRows;       // that any rank sends to any other
  uint64_t roundBytes;     // least bytes of a slice if a peer has several
  uint32_t peersPerRound;  // offsets that share a round
};

/*
 * Rows of a slice, for rows of `rowBytes`: a few rounds, since each costs a launch on every rank, but
 * several, so that packing one hides behind sending another.
 */
uint32_t sliceRowsFor(const SliceRule &rule, uint32_t ranks, uint64_t rowBytes);

// Whether slices of entries are cut where runs end, so that rows are sent and received in place. A message of
// NCCL costs more than copying a short run, so runs have to be long on average. `runs` is the most that one
// peer has; all arguments are identical on all ranks.
inline bool cutsAtRuns(const SliceRule &rule, uint32_t runs, uint64_t rowBytes) {
  constexpr uint64_t leastRun = 64 << 20;
  return runs <= 1 || rule.mostRows * rowBytes / runs >= std::min(leastRun, rule.roundBytes);
}

}  // namespace fusco::nccl
