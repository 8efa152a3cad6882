#include "one_pass_tables.hpp"

#include <algorithm>
#include <new>

#include "plan.hpp"
#include "plan_layout.h"

namespace fusco::cuda {

namespace {

constexpr uint64_t tableAlign = 256;

uint64_t aligned(uint64_t bytes) { return (bytes + tableAlign - 1) / tableAlign * tableAlign; }

}  // namespace

OnePassLayout::OnePassLayout(uint64_t localTokens, uint64_t remoteTokens, uint32_t topk, uint32_t locals) {
  send = aligned(sizeof(OnePassHead));
  terms = send + aligned(localTokens * topk * sizeof(Place));
  arrival = terms + aligned(localTokens * topk * sizeof(SumTerm));
  arrivalRow = arrival + aligned(locals * remoteTokens * topk * sizeof(uint32_t));
  bytes = arrivalRow + aligned(locals * remoteTokens * sizeof(uint32_t));
}

OnePassTables OnePassLayout::tables(uint8_t *memory, const Place *place, uint64_t remoteTokens) const {
  return {reinterpret_cast<OnePassHead *>(memory + head),
          place,
          reinterpret_cast<Place *>(memory + send),
          reinterpret_cast<SumTerm *>(memory + terms),
          reinterpret_cast<uint32_t *>(memory + arrival),
          reinterpret_cast<uint32_t *>(memory + arrivalRow),
          remoteTokens};
}

namespace {

// Writes `send` and `terms` [topk] of a token whose device has the ranks `local`, as TokenPlaces::send and
// termOrder say entry by entry, but without branches on ranks, which nothing predicts. `landingRow` [ranks]:
// of the next partial sum of each rank of another device.
void fillToken(const TokenPlaces &token, RankBits local, uint32_t *landingRow, Place *send, SumTerm *terms) {
  const TokenRanks ranks(token);
  std::fill(terms, terms + token.topk, SumTerm{});
  uint32_t next[64];  // of each rank: where its next term goes
  uint32_t count = 0;
  for (uint64_t left = ranks.ranks().bits; left != 0; left &= left - 1) {
    const auto rank = static_cast<uint32_t>(__builtin_ctzll(left));
    next[rank] = count;
    count += chosen(local.has(rank), ranks.rows(rank), 1);
  }
  for (uint32_t k = 0; k < token.topk; k++) {
    const Place place = token.at[k];
    send[k] = place;
    if (!token.isKept(k)) continue;
    const bool isLocal = local.has(place.peer);
    send[k].row =
        static_cast<int32_t>(chosen(isLocal | ranks.isLowest(place), static_cast<uint32_t>(place.row),
                                    static_cast<uint32_t>(FUSCO_SLOT_MASKED)));
    // All entries of a rank of another device have the same term.
    terms[next[place.peer]] = termOf(token, k, local, landingRow[place.peer]);
    next[place.peer] += isLocal ? 1 : 0;
  }
  for (uint64_t left = ranks.ranks().bits; left != 0; left &= left - 1) landingRow[__builtin_ctzll(left)]++;
}

}  // namespace

OnePassTableMaker::OnePassTableMaker(uint32_t topk, const std::vector<uint32_t> &tokens,
                                     const std::vector<bool> &isLocal, const OnePassLayout &layout,
                                     uint64_t remoteTokens, uint8_t *at)
    : capacity_(remoteTokens),
      head_(new (at + layout.head) OnePassHead{}),
      send_(reinterpret_cast<Place *>(at + layout.send)),
      terms_(reinterpret_cast<SumTerm *>(at + layout.terms)),
      arrival_(reinterpret_cast<uint32_t *>(at + layout.arrival)),
      arrivalRow_(reinterpret_cast<uint32_t *>(at + layout.arrivalRow)) {
  OnePassHead &head = *head_;
  head.ranks = static_cast<uint32_t>(tokens.size());
  head.topk = topk;
  uint32_t arrivals = 0;
  uint32_t locals = 0;
  for (uint32_t rank = 0; rank < head.ranks; rank++) {
    head.maxTokens = std::max(head.maxTokens, tokens[rank]);
    head.tokens[rank] = tokens[rank];
    head.tokenStart[rank + 1] = head.tokenStart[rank] + tokens[rank];
    head.localOf[rank] = noSlot;
    if (isLocal[rank]) {
      local_.add(rank);
      head.localOf[rank] = head.locals;
      head.localStart[head.locals] = locals;
      head.local[head.locals++] = rank;
      locals += tokens[rank];
    } else {
      head.arrivalStart[rank] = arrivals;
      arrivals += tokens[rank];
    }
  }
  for (uint32_t distance = 1; distance < head.ranks; distance++) {
    const uint32_t rank = (head.local[0] + distance) % head.ranks;
    if (!isLocal[rank]) head.remote[head.remotes++] = rank;
  }
}

uint32_t OnePassTableMaker::addLocal(uint32_t rank, const RankPlaces &places) {
  const uint32_t topk = head_->topk;
  const uint64_t start = uint64_t{head_->localStart[head_->localOf[rank]]} * topk;
  // Partial sums of other devices are numbered by (rank, token).
  const std::vector<uint32_t> tokensAt = places.tokensAtRanks(head_->ranks);
  std::vector<uint32_t> landingRow(head_->ranks);
  uint32_t rows = 0;
  for (uint32_t remote = 0; remote < head_->ranks; remote++) {
    landingRow[remote] = rows;
    if (!local_.has(remote)) rows += tokensAt[remote];
  }
  for (uint32_t token = 0; token < places.tokens; token++) {
    const uint64_t first = start + uint64_t{token} * topk;
    fillToken(places.of(token), local_, landingRow.data(), send_ + first, terms_ + first);
  }
  return rows;
}

uint32_t *OnePassTableMaker::arrival(uint32_t here, uint32_t rank) const {
  return arrival_ + (head_->localOf[here] * capacity_ + head_->arrivalStart[rank]) * head_->topk;
}

uint32_t *OnePassTableMaker::arrivalRow(uint32_t here, uint32_t rank) const {
  return arrivalRow_ + head_->localOf[here] * capacity_ + head_->arrivalStart[rank];
}

void fillOnePassTables(const fusco_plan &plan, const std::vector<uint32_t> &deviceOf, uint32_t device,
                       const OnePassLayout &layout, uint64_t capacityTokens, uint8_t *at,
                       std::vector<uint32_t> &landingRows) {
  std::vector<uint32_t> tokens;
  std::vector<bool> isLocal;
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    tokens.push_back(plan.rank[rank].tokens);
    isLocal.push_back(deviceOf[rank] == device);
  }
  OnePassTableMaker maker(plan.topk, tokens, isLocal, layout, capacityTokens, at);
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    const RankPlaces places = {plan.rank[rank].places.data(), tokens[rank], plan.topk};
    if (isLocal[rank]) {
      landingRows[rank] = maker.addLocal(rank, places);
      continue;
    }
    for (uint32_t here = 0; here < plan.ranks; here++) {
      if (isLocal[here]) places.writeArrival(here, maker.arrival(here, rank));
    }
    landingRows[rank] = places.numberLandingRows(
        plan.ranks, [&](uint32_t other) { return deviceOf[other] != deviceOf[rank]; },
        [&](uint32_t sender, uint32_t token, uint32_t row) {
          if (isLocal[sender]) maker.arrivalRow(sender, rank)[token] = row;
        });
  }
}

}  // namespace fusco::cuda
