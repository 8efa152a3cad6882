// Where the rows of one rank's tokens go, in the words in which ranks tell one another. No CUDA.
#pragma once

#include <vector>

#include "token_places.hpp"

namespace fusco {

// The ranks that have rows of a token, and its lowest slot at each: what TokenPlaces finds entry by entry, in
// one pass.
class TokenRanks {
 public:
  explicit TokenRanks(const TokenPlaces &token) {
    for (uint32_t k = 0; k < token.topk; k++) {
      if (token.isKept(k)) add(token.at[k], k);
    }
  }

  RankBits ranks() const { return ranks_; }
  // Of a kept entry.
  bool isLowest(const Place &place) const { return lowest_[place.peer] == place.row; }
  // The lowest k with a row at one of these ranks.
  uint32_t firstK(uint32_t rank) const { return firstK_[rank]; }

 private:
  void add(const Place &place, uint32_t k) {
    const uint32_t rank = place.peer;
    const bool isNew = !ranks_.has(rank);
    ranks_.add(rank);
    firstK_[rank] = isNew ? k : firstK_[rank];
    lowest_[rank] = isNew || place.row < lowest_[rank] ? place.row : lowest_[rank];
  }

  RankBits ranks_;
  int32_t lowest_[64];   // of `ranks_`
  uint32_t firstK_[64];  // of `ranks_`
};

// The places of one rank's tokens. Ranks are below 64.
struct RankPlaces {
  const Place *places;  // [tokens, topk]; peer: a rank
  uint32_t tokens;
  uint32_t topk;

  TokenPlaces of(uint32_t token) const { return {places + uint64_t{token} * topk, topk}; }
  // [tokens]: the ranks that have rows of each token.
  std::vector<RankBits> ranksOfTokens() const;
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
