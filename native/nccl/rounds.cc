#include "rounds.hpp"

#include <algorithm>

namespace fusco::nccl {

void SendOrder::close() {
  for (uint32_t peer = 0; peer < ranks(); peer++) {
    uint64_t rows = 0;
    for (const Run &run : runs_[peer]) rows += run.rows;
    start_[peer + 1] = start_[peer] + rows;
  }
}

std::vector<uint64_t> SendOrder::bytesByPeer(uint64_t rowBytes) const {
  std::vector<uint64_t> bytes(ranks());
  for (uint32_t peer = 0; peer < ranks(); peer++) bytes[peer] = rows(peer) * rowBytes;
  return bytes;
}

void SendOrder::forEachPiece(uint32_t peer, uint32_t first, uint32_t rows,
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

// Appends the slice of `index`, if the peer has one.
void addSlice(std::vector<Slice> &slices, uint32_t &rowsOfRound, const SendOrder &sendOrder, uint32_t peer,
              uint64_t index, uint32_t sliceRows) {
  const uint64_t first = index * sliceRows;
  if (first >= sendOrder.rows(peer)) return;
  const auto rows = static_cast<uint32_t>(std::min<uint64_t>(sliceRows, sendOrder.rows(peer) - first));
  slices.push_back({peer, static_cast<uint32_t>(first), rows, rowsOfRound});
  rowsOfRound += rows;
}

}  // namespace

std::vector<Round> makeRounds(uint32_t rank, const SendOrder &send, const SendOrder &receive,
                              uint32_t sliceRows, uint32_t peersPerRound) {
  const uint32_t ranks = send.ranks();
  uint32_t longest = 0;
  for (uint32_t peer = 0; peer < ranks; peer++) {
    longest = std::max({longest, send.rows(peer), receive.rows(peer)});
  }
  std::vector<Round> rounds;
  for (uint32_t index = 0; uint64_t{index} * sliceRows < longest; index++) {
    for (uint32_t offset = 1; offset < ranks; offset += peersPerRound) {
      Round round{index, offset, {}, {}};
      const uint32_t end = std::min(ranks, offset + peersPerRound);
      for (uint32_t o = offset; o < end; o++) {
        addSlice(round.send, round.sendRows, send, (rank + o) % ranks, index, sliceRows);
        addSlice(round.receive, round.receiveRows, receive, (rank + ranks - o) % ranks, index, sliceRows);
      }
      if (!round.send.empty() || !round.receive.empty()) rounds.push_back(std::move(round));
    }
  }
  return rounds;
}

uint32_t sliceRowsFor(const SliceRule &rule, uint32_t ranks, uint64_t rowBytes) {
  constexpr uint64_t mostRounds = 4;
  const uint64_t blocks = std::max<uint64_t>(1, (ranks - 1 + rule.peersPerRound - 1) / rule.peersPerRound);
  const uint64_t mostSlices = std::max<uint64_t>(1, mostRounds / blocks);
  const uint64_t slicesPerPeer =
      std::clamp<uint64_t>(rule.mostRows * rowBytes / rule.roundBytes, 1, mostSlices);
  const uint64_t rows = (rule.mostRows + slicesPerPeer - 1) / slicesPerPeer;
  const uint64_t slices = std::max<uint64_t>(1, (rows + rule.planRows - 1) / rule.planRows);
  return static_cast<uint32_t>(std::min<uint64_t>(slices * rule.planRows, UINT32_MAX));
}

}  // namespace fusco::nccl
