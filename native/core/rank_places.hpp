// Where the rows of one rank's tokens go, in the words in which ranks tell one another. No CUDA.
#pragma once

#include "token_places.hpp"

namespace fusco {

// The places of one rank's tokens.
struct RankPlaces {
  const Place *places;  // [tokens, topk]; peer: a rank
  uint32_t tokens;
  uint32_t topk;

  TokenPlaces of(uint32_t token) const { return {places + uint64_t{token} * topk, topk}; }
  // Whether a token has a row at a rank.
  bool hasRowAt(uint32_t token, uint32_t rank) const;
  // What rank `here` must know of these tokens, [tokens, topk]: the slot of each entry at that rank, or
  // noSlot; isLanding marks the slot in which the row arrives.
  void writeArrival(uint32_t here, uint32_t *slots) const;

  // Numbers the partial sums that other ranks send home, by (rank, token). Calls f(rank, token, landing row)
  // for each, and returns their number. `sends(rank)`: whether the rank is not on the home's device.
  template <class Sends, class F>
  uint32_t numberLandingRows(uint32_t ranks, Sends sends, F f) const {
    uint32_t row = 0;
    for (uint32_t rank = 0; rank < ranks; rank++) {
      if (!sends(rank)) continue;
      for (uint32_t token = 0; token < tokens; token++) {
        if (hasRowAt(token, rank)) f(rank, token, row++);
      }
    }
    return row;
  }
};

}  // namespace fusco
