// The tables that exchanges read, made from a plan in a plan buffer: one call per rank, instance or entry, on
// processors and GPUs. They have the form of those that are uploaded, except that every start is at a fixed
// place, which follows from the limits alone: no rank needs to know how many tokens another one has to tell
// it where rows go.
#pragma once

#include "checked_shard.hpp"
#include "plan_buffer.hpp"
#include "plan_layout.h"

namespace fusco::cuda {

// The first token of rank `source` in the arrival tables of a device with the ranks `local`.
FUSCO_ON_BOTH inline uint32_t arrivalStart(const PlanSizes &sizes, RankBits local, uint32_t source) {
  return (source - local.below(source)) * sizes.maxTokens;
}

// Landing rows for the partial sums of a token: one for each rank of another device that can have rows of it.
FUSCO_ON_BOTH inline uint32_t landingRowsPerToken(const PlanSizes &sizes, RankBits local) {
  const uint32_t others = sizes.ranks - local.count();
  return sizes.topk < others ? sizes.topk : others;
}

// The padding behind `rows` real rows of the block [row, end), as far as it is below `limit`.
FUSCO_ON_BOTH inline RowRange paddingOf(uint32_t row, uint32_t rows, uint32_t end, uint32_t limit) {
  const uint32_t first = row + rows < limit ? row + rows : limit;
  return {first, (end < limit ? end : limit) - first};
}

// What a head says of one rank. `local`: the device's ranks; `start`: the first token of the rank among
// theirs, if it is one of them; `tokens`: of the rank.
FUSCO_ON_BOTH inline void layOnePassRank(OnePassHead &head, const PlanSizes &sizes, RankBits local,
                                         uint32_t rank, uint32_t start, uint32_t tokens) {
  head.tokens[rank] = tokens;
  head.tokenStart[rank] = rank * sizes.maxTokens;
  head.arrivalStart[rank] = 0;
  head.localOf[rank] = noSlot;
  if (local.has(rank)) {
    const uint32_t index = local.below(rank);
    head.localOf[rank] = index;
    head.local[index] = rank;
    head.localStart[index] = start;
    return;
  }
  head.arrivalStart[rank] = arrivalStart(sizes, local, rank);
  // Remote ranks are numbered from the next rank after the device's first one.
  const auto remotesBelow = [local](uint32_t of) { return of - local.below(of); };
  uint32_t first = 0;
  while (!local.has(first)) first++;
  const uint32_t below = remotesBelow(rank) - remotesBelow(first);
  head.remote[rank > first ? below : below + sizes.ranks - local.count()] = rank;
}

// What a head says of all ranks together.
FUSCO_ON_BOTH inline void layOnePassSizes(OnePassHead &head, const PlanSizes &sizes, RankBits local,
                                          uint32_t maxTokens) {
  head.ranks = sizes.ranks;
  head.locals = local.count();
  head.remotes = sizes.ranks - head.locals;
  head.topk = sizes.topk;
  head.maxTokens = maxTokens;
  head.tokenStart[sizes.ranks] = sizes.ranks * sizes.maxTokens;
}

// The head of a device's tables, without its ranks.
FUSCO_ON_BOTH inline void layDeviceHead(DevicePlanHead &head, const PlanSizes &sizes, uint32_t localRanks,
                                        uint32_t tokens, uint32_t paddings) {
  head.topk = sizes.topk;
  head.localRanks = localRanks;
  head.tokens = tokens;
  head.paddings = paddings;
  head.tileTokens = 0;
  head.ranksPerNode = sizes.ranksPerNode;
  head.tokenStart[localRanks] = tokens;
}

FUSCO_ON_BOTH inline void layDeviceRank(DevicePlanHead &head, uint32_t index, uint32_t rank,
                                        uint32_t tokenStart) {
  head.rankOf[index] = rank;
  head.originOf[index] = rank;
  head.tokenStart[index] = tokenStart;
}

// Where another rank has what it must know of this rank's tokens.
struct ArrivalTables {
  uint32_t *slots;  // [tokens, topk]
  uint32_t *rows;   // [tokens]
};

// Writes the tables of one entry of a rank whose device has the ranks `local`: `send` and `terms` [topk] are
// those of its token, and `tablesAt(rank)` returns the ArrivalTables of a rank of another device.
template <class F>
FUSCO_ON_BOTH void tellEntry(const PlanSizes &sizes, RankBits local, const TokenPlaces &places,
                             uint32_t token, uint32_t k, Place *send, SumTerm *terms, F tablesAt) {
  // Found once, and kept: stores do not let later loads pass.
  const Place own = places.at[k];
  const uint32_t slot = places.arrival(k, own.peer);
  send[k] = TokenPlaces::send(own, slot, local, FUSCO_SLOT_MASKED);
  const TermOrder order = places.termOrder(k, local);
  const uint32_t firstRow = token * landingRowsPerToken(sizes, local);
  if (k >= order.terms) terms[k] = {0, 0};
  if (order.isTerm) {
    terms[order.position] = termOf(places, k, local, firstRow + order.senders.below(own.peer));
  }
  // The entries of a token share the work: that of rank r is done by entry r modulo topk.
  uint32_t sharer = 0;
  for (uint32_t here = 0; here < sizes.ranks; here++) {
    const bool isShare = k == sharer;
    sharer = sharer + 1 < sizes.topk ? sharer + 1 : 0;
    if (local.has(here)) continue;
    const ArrivalTables at = tablesAt(here);
    at.slots[uint64_t{token} * sizes.topk + k] = own.peer == here ? slot : noSlot;
    if (!isShare) continue;
    at.rows[token] = order.senders.has(here) ? firstRow + order.senders.below(here) : noSlot;
  }
}

}  // namespace fusco::cuda
