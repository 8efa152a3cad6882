// The workload that variants run: uniform routing, top-k of experts that are
// placed in blocks, and the tables of one rank.
#pragma once

#include <numeric>
#include <vector>

#include "one_pass_tables.hpp"

namespace fusco::variants {

constexpr uint32_t topk = 8;
constexpr uint32_t experts = 256;
constexpr uint32_t hidden = 7168;

FUSCO_ON_BOTH inline uint64_t mixed(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

// Where every row of every rank goes.
struct Workload {
  uint32_t ranks;
  uint32_t tokens;                        // of each rank
  std::vector<std::vector<Place>> places; // [ranks][tokens, topk]
  std::vector<uint32_t> received;         // [ranks], rows

  Workload(uint32_t rankCount, uint32_t tokenCount)
      : ranks(rankCount), tokens(tokenCount), places(rankCount),
        received(rankCount, 0) {
    std::vector<std::vector<uint32_t>> ids(ranks);
    std::vector<uint32_t> next(experts, 0);
    for (uint32_t rank = 0; rank < ranks; rank++) {
      std::vector<uint32_t> order(experts);
      std::iota(order.begin(), order.end(), 0);
      for (uint32_t token = 0; token < tokens; token++) {
        for (uint32_t k = 0; k < topk; k++) {
          const uint64_t draw =
              mixed((uint64_t{rank} << 40) + uint64_t{token} * topk + k + 1);
          std::swap(order[k], order[k + draw % (experts - k)]);
          ids[rank].push_back(order[k]);
          next[order[k]]++;
        }
      }
    }
    // First rows of the experts' blocks; rows of a block are in the order of
    // sources, tokens and k.
    for (uint32_t expert = 0; expert < experts; expert++) {
      uint32_t &rows = received[ownerOf(expert)];
      const uint32_t count = next[expert];
      next[expert] = rows;
      rows += count;
    }
    for (uint32_t rank = 0; rank < ranks; rank++) {
      for (const uint32_t expert : ids[rank]) {
        places[rank].push_back(
            {ownerOf(expert), static_cast<int32_t>(next[expert]++)});
      }
    }
  }

  uint32_t ownerOf(uint32_t expert) const { return expert * ranks / experts; }
  RankPlaces of(uint32_t rank) const {
    return {places[rank].data(), tokens, topk};
  }
  uint32_t remoteTokens() const { return (ranks - 1) * tokens; }
  cuda::OnePassLayout layout() const {
    return {tokens, remoteTokens(), topk, 1};
  }

  // The tables of a rank that has its device alone. `landingRows` becomes the
  // number of partial sums that arrive at it.
  std::vector<uint8_t> tables(uint32_t self, uint32_t &landingRows) const {
    const cuda::OnePassLayout layout = this->layout();
    std::vector<uint8_t> bytes(layout.bytes);
    std::vector<bool> isLocal(ranks, false);
    isLocal[self] = true;
    const std::vector<uint32_t> counts(ranks, tokens);
    cuda::OnePassTableMaker maker(topk, counts, isLocal, layout, remoteTokens(),
                                  bytes.data());
    landingRows = maker.addLocal(self, of(self));
    for (uint32_t rank = 0; rank < ranks; rank++) {
      if (rank == self)
        continue;
      of(rank).writeArrival(self, maker.arrival(self, rank));
      of(rank).numberLandingRows(
          ranks, [&](uint32_t other) { return other != rank; },
          [&](uint32_t sender, uint32_t token, uint32_t row) {
            if (sender == self)
              maker.arrivalRow(self, rank)[token] = row;
          });
    }
    return bytes;
  }
};

} // namespace fusco::variants
