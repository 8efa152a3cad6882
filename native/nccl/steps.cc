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
    for (uint32_t offset = 1; offset < ranks; offset += peersPerStep) {
      Step step{round, offset, {}, {}};
      const uint32_t end = std::min(ranks, offset + peersPerStep);
      for (uint32_t o = offset; o < end; o++) {
        addSlice(step.send, step.sendRows, send, (rank + o) % ranks, round, sliceRows);
        addSlice(step.receive, step.receiveRows, receive, (rank + ranks - o) % ranks, round, sliceRows);
      }
      if (!step.send.empty() || !step.receive.empty()) steps.push_back(std::move(step));
    }
  }
  return steps;
}

uint32_t sliceRowsFor(const SliceRule &rule, uint32_t ranks, uint64_t rowBytes) {
  constexpr uint64_t mostSteps = 4;
  const uint64_t blocks = std::max<uint64_t>(1, (ranks - 1 + rule.peersPerStep - 1) / rule.peersPerStep);
  const uint64_t mostRounds = std::max<uint64_t>(1, mostSteps / blocks);
  const uint64_t rounds = std::clamp<uint64_t>(rule.mostRows * rowBytes / rule.stepBytes, 1, mostRounds);
  const uint64_t rows = (rule.mostRows + rounds - 1) / rounds;
  const uint64_t slices = std::max<uint64_t>(1, (rows + rule.planRows - 1) / rule.planRows);
  return static_cast<uint32_t>(std::min<uint64_t>(slices * rule.planRows, UINT32_MAX));
}

}  // namespace fusco::nccl
