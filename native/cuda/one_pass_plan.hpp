// What one-pass exchanges read of a plan: tables in the memory of one device. No CUDA.
#pragma once

#include "device_tables.hpp"
#include "rank_places.hpp"

namespace fusco::cuda {

// One addition of combine at the token's own rank. Terms of a token are in the order of addition; there are
// topk, the unused ones at the end.
struct SumTerm {
  uint32_t row;   // slot at a local rank, or landing row
  uint32_t info;  // k, rank << termRankShift, and the flags below
};
constexpr uint32_t termK = 0xff;
constexpr uint32_t termRankShift = 8;
constexpr uint32_t termIsLanding = 1u << 16;  // a finished partial sum of a remote rank
constexpr uint32_t termIsUsed = 1u << 17;

// The term of an entry that is one; `landingRow` is that of its rank's partial sum, if the rank is not on
// the device, whose ranks are `local`.
FUSCO_ON_BOTH inline SumTerm termOf(const TokenPlaces &token, uint32_t k, RankBits local,
                                    uint32_t landingRow) {
  const Place place = token.at[k];
  const uint32_t from = place.peer << termRankShift | termIsUsed;
  const bool isLocal = local.has(place.peer);
  return {chosen(isLocal, static_cast<uint32_t>(place.row), landingRow),
          from | chosen(isLocal, k, termIsLanding)};
}

// Sizes of a plan as one device sees it. In device memory, so that a captured launch can use another plan.
struct OnePassHead {
  uint32_t ranks;
  uint32_t locals;
  uint32_t remotes;
  uint32_t topk;
  uint32_t maxTokens;  // of any rank
  uint32_t tokens[maxRanks];
  uint32_t tokenStart[maxRanks + 1];  // first token of each rank, if the tokens of all ranks are numbered
  uint32_t localStart[maxRanks];      // local index -> first token, if the tokens of local ranks are numbered
  uint32_t arrivalStart[maxRanks];  // remote rank -> first token, if the tokens of remote ranks are numbered
  uint32_t local[maxRanks];         // local index -> rank
  uint32_t remote[maxRanks];        // remote index -> rank, the next rank first
  uint32_t localOf[maxRanks];       // rank -> local index, or noSlot
};

// Tables of a plan on one device.
struct OnePassTables {
  const OnePassHead *head;
  const Place *place;       // [local tokens, topk]: all slots
  const Place *send;        // [local tokens, topk]: local slots, and the landing slot of each remote rank
  const SumTerm *terms;     // [local tokens, topk]
  const uint32_t *arrival;  // [locals, capacity of remote tokens, topk]
  const uint32_t
      *arrivalRow;         // [locals, capacity of remote tokens]: landing row of the partial sum at its home
  uint64_t arrivalTokens;  // that capacity
};

}  // namespace fusco::cuda
