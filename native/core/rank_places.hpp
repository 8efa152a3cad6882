// Where the rows of one rank's tokens go, in the words in which ranks tell one another. No CUDA.
#pragma once

#include <vector>

#include "token_places.hpp"

namespace fusco {

// The ranks that have rows of a token, and what TokenPlaces finds entry by entry, in one pass.
class TokenRanks {
 public:
  explicit TokenRanks(const TokenPlaces &token) {
    for (uint32_t k = 0; k < token.topk; k++) {
      if (token.isKept(k)) ranks_.add(token.at[k].peer);
    }
    for (uint64_t left = ranks_.bits; left != 0; left &= left - 1) {
      const auto rank = __builtin_ctzll(left);
      lowest_[rank] = noSlot;
      rows_[rank] = 0;
    }
    for (uint32_t k = 0; k < token.topk; k++) {
      if (!token.isKept(k)) continue;
      const Place place = token.at[k];
      const auto row = static_cast<uint32_t>(place.row);
      const uint32_t lowest = lowest_[place.peer];
      lowest_[place.peer] = chosen(row < lowest, row, lowest);
      rows_[place.peer]++;
    }
  }

  RankBits ranks() const { return ranks_; }
  // Of a kept entry.
  bool isLowest(const Place &place) const { return lowest_[place.peer] == static_cast<uint32_t>(place.row); }
  // Of one of these ranks.
  uint32_t rows(uint32_t rank) const { return rows_[rank]; }

 private:
  RankBits ranks_;
  // Of each of these ranks: the lowest slot, and how many.
  uint32_t lowest_[64];
  uint32_t rows_[64];
};

// The places of one rank's tokens. Ranks are below 64.
struct RankPlaces {
  const Place *places;  // [tokens, topk]; peer: a rank
  uint32_t tokens;
  uint32_t topk;

  TokenPlaces of(uint32_t token) const { return {places + uint64_t{token} * topk, topk}; }
  // [tokens]: the ranks that have rows of each token.
  std::vector<RankBits> ranksOfTokens() const;
  // [ranks]: how many tokens have rows at each rank.
  std::vector<uint32_t> tokensAtRanks(uint32_t ranks) const;
  // What rank `here` must know of these tokens, [tokens, topk]: the slot of each entry at that rank, or
  // noSlot; isLanding marks the slot in which the row arrives.
  void writeArrival(uint32_t here, uint32_t *slots) const;

  // Numbers the partial sums that other ranks send home, by (rank, token). Calls f(rank, token, landing row)
  // for each, and returns their number. `sends(rank)`: whether the rank is not on the home's device.
  template <class Sends, class F>
  uint32_t numberLandingRows(uint32_t ranks, Sends sends, F f) const {
    const std::vector<RankBits> of = ranksOfTokens();
    uint32_t row = 0;
    for (uint32_t rank = 0; rank < ranks; rank++) {
      if (!sends(rank)) continue;
      for (uint32_t token = 0; token < tokens; token++) {
        if (of[token].has(rank)) f(rank, token, row++);
      }
    }
    return row;
  }
};

}  // namespace fusco
