#include "steps.hpp"

#include <algorithm>

namespace fusco::nccl {

void Stream::close() {
  for (uint32_t peer = 0; peer < ranks(); peer++) {
    uint64_t rows = 0;
    for (const Run &run : runs_[peer]) rows += run.rows;
    start_[peer + 1] = start_[peer] + rows;
  }
}

void Stream::forEachPiece(uint32_t peer, uint32_t first, uint32_t rows,
                          const std::function<void(Run)> &piece) const {
  uint64_t skip = first;
  uint32_t left = rows;
  for (const Run &run : runs_[peer]) {
    if (left == 0) return;
    if (skip >= run.rows) {
      skip -= run.rows;
      continue;
    }
    const auto count = static_cast<uint32_t>(std::min<uint64_t>(run.rows - skip, left));
    piece({run.first + skip, count});
    left -= count;
    skip = 0;
  }
}

namespace {

// Appends the slice of `round`, if the peer has one.
void addSlice(std::vector<Slice> &slices, uint32_t &rowsOfStep, const Stream &stream, uint32_t peer,
              uint64_t round, uint32_t sliceRows) {
  const uint64_t first = round * sliceRows;
  if (first >= stream.rows(peer)) return;
  const auto rows = static_cast<uint32_t>(std::min<uint64_t>(sliceRows, stream.rows(peer) - first));
  slices.push_back({peer, static_cast<uint32_t>(first), rows, rowsOfStep});
  rowsOfStep += rows;
}

}  // namespace

std::vector<Step> makeSteps(uint32_t rank, const Stream &send, const Stream &receive, uint32_t sliceRows,
                            uint32_t peersPerStep) {
  const uint32_t ranks = send.ranks();
  uint32_t longest = 0;
  for (uint32_t peer = 0; peer < ranks; peer++) {
    longest = std::max({longest, send.rows(peer), receive.rows(peer)});
  }
  std::vector<Step> steps;
  for (uint32_t round = 0; uint64_t{round} * sliceRows < longest; round++) {
    const uint32_t together = round == 0 ? 1 : peersPerStep;
    for (uint32_t offset = 1; offset < ranks; offset += together) {
      Step step{round, offset, {}, {}};
      const uint32_t end = std::min(ranks, offset + together);
      for (uint32_t o = offset; o < end; o++) {
        addSlice(step.send, step.sendRows, send, (rank + o) % ranks, round, sliceRows);
        addSlice(step.receive, step.receiveRows, receive, (rank + ranks - o) % ranks, round, sliceRows);
      }
      if (!step.send.empty() || !step.receive.empty()) steps.push_back(std::move(step));
    }
  }
  return steps;
}

}  // namespace fusco::nccl
