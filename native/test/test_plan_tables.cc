// Tables that exchanges read, of plans in plan buffers: the passes that planning on a GPU runs, here in plain
// loops, against the tables that are uploaded, which come from checked shards. Random routings; every device
// has one rank, some ranks, or all.

#include <cstring>
#include <memory>

#include "join_pass.hpp"
#include "one_pass_tables.hpp"
#include "plan.hpp"
#include "plan_buffers.hpp"
#include "plans.h"

using namespace fusco;
using namespace fusco::cuda;

namespace {

// The plan as it is uploaded, with the rows from `limit` on dropped.
CheckedPlan uploadedPlan(const RandomRouting &routed, uint32_t limit) {
  auto desc = fusco_sized<fusco_plan_desc>();
  std::vector<fusco_buffer> shards;
  for (const auto &bytes : routed.shards) {
    shards.push_back({const_cast<uint32_t *>(bytes.data()), bytes.size() * sizeof(uint32_t)});
  }
  desc.ranks = routed.options.ranks;
  desc.ranks_per_node = routed.options.ranks_per_node;
  desc.strategy = routed.options.strategy;
  desc.shards = shards.data();
  CheckedPlan checked = checkPlan(nullptr, desc);
  for (RankPlan &part : checked.plan->rank) {
    for (Place &place : part.places) {
      if (place.row >= 0 && static_cast<uint32_t>(place.row) >= limit) place.row = FUSCO_SLOT_DROPPED;
    }
    std::vector<RowRange> padding;
    for (const RowRange &range : part.padding) {
      if (range.first >= limit) continue;
      padding.push_back({range.first, std::min(range.rows, limit - range.first)});
    }
    part.padding = padding;
  }
  return checked;
}

// One device's tables, as exchanges read them.
struct Tables {
  DeviceTables direct;
  OnePassTables onePass;
  std::vector<uint64_t> memory;

  // From the plan buffers: those of its only rank, or joined.
  Tables(Buffers &buffers, const std::vector<uint32_t> &ranks) {
    const PlanSizes &sizes = buffers.sizes;
    if (ranks.size() == 1) {
      const PlanBuffer &buffer = buffers.rank[ranks[0]];
      direct = {buffer.head, buffer.place, nullptr, buffer.paddings};
      onePass = {buffer.onePass,    buffer.place,           buffer.send, buffer.terms, buffer.arrival,
                 buffer.arrivalRow, sizes.maxRemoteTokens()};
      return;
    }
    const auto locals = static_cast<uint32_t>(ranks.size());
    const uint64_t localTokens = uint64_t{locals} * sizes.maxTokens;
    const uint64_t remoteTokens = uint64_t{sizes.ranks - locals} * sizes.maxTokens;
    const OnePassLayout layout(localTokens, remoteTokens, sizes.topk, locals);
    const uint64_t places = layout.bytes;
    const uint64_t paddings = places + localTokens * sizes.topk * sizeof(Place);
    const uint64_t head = paddings + uint64_t{locals} * sizes.maxLocal * sizeof(PaddingRange);
    memory.assign((head + sizeof(DevicePlanHead)) / sizeof(uint64_t) + 2, 0xa5a5a5a5a5a5a5a5);
    auto *at = reinterpret_cast<uint8_t *>(memory.data());
    JoinParams params{};
    params.sizes = sizes;
    params.local = buffers.deviceRanks[ranks[0]];
    for (const uint32_t rank : ranks) {
      params.rankOf[params.localRanks] = rank;
      params.buffers[params.localRanks++] = buffers.base(rank);
    }
    params.hasOthers = remoteTokens > 0 ? 1 : 0;
    params.place = reinterpret_cast<Place *>(at + places);
    params.paddings = reinterpret_cast<PaddingRange *>(at + paddings);
    params.head = reinterpret_cast<DevicePlanHead *>(at + head);
    params.onePass = new (at + layout.head) OnePassHead{};
    params.send = reinterpret_cast<Place *>(at + layout.send);
    params.terms = reinterpret_cast<SumTerm *>(at + layout.terms);
    params.arrival = reinterpret_cast<uint32_t *>(at + layout.arrival);
    params.arrivalRow = reinterpret_cast<uint32_t *>(at + layout.arrivalRow);
    for (uint32_t local = 0; local < locals; local++) joinRank(params, local, 0, 1);
    direct = {params.head, params.place, nullptr, params.paddings};
    onePass = layout.tables(at, params.place, remoteTokens);
  }

  // As they are uploaded.
  Tables(const fusco_plan &plan, const std::vector<uint32_t> &deviceOf, uint32_t device,
         const std::vector<uint32_t> &ranks, std::vector<uint32_t> &landingRows) {
    const OnePassLayout layout(plan.tokens, plan.tokens, plan.topk, static_cast<uint32_t>(ranks.size()));
    memory.assign(layout.bytes / sizeof(uint64_t) + 1, 0);
    auto *at = reinterpret_cast<uint8_t *>(memory.data());
    fillOnePassTables(plan, deviceOf, device, layout, plan.tokens, at, landingRows);
    onePass = layout.tables(at, nullptr, plan.tokens);
  }
};

// What must be equal of the tables for direct exchanges.
void compareDirect(const Tables &found, const fusco_plan &plan, const std::vector<uint32_t> &ranks) {
  const DevicePlanHead &head = *found.direct.head;
  CHECK(head.topk == plan.topk && head.localRanks == ranks.size() && head.tileTokens == 0);
  CHECK(head.ranksPerNode == plan.ranksPerNode);
  uint32_t tokens = 0;
  uint32_t paddings = 0;
  for (size_t local = 0; local < ranks.size(); local++) {
    const RankPlan &part = plan.rank[ranks[local]];
    CHECK(head.rankOf[local] == ranks[local] && head.originOf[local] == ranks[local]);
    CHECK(head.tokenStart[local] == tokens);
    for (size_t entry = 0; entry < part.places.size(); entry++) {
      const Place &place = found.direct.place[uint64_t{tokens} * plan.topk + entry];
      CHECK(place.row == part.places[entry].row);
      CHECK(place.row < 0 || place.peer == part.places[entry].peer);
    }
    for (const RowRange &range : part.padding) {
      const PaddingRange &padding = found.direct.paddings[paddings++];
      CHECK(padding.rank == ranks[local] && padding.first == range.first && padding.rows == range.rows);
    }
    tokens += part.tokens;
  }
  CHECK(head.tokens == tokens && head.tokenStart[ranks.size()] == tokens && head.paddings == paddings);
}

// What must be equal of the one-pass tables. Landing rows are numbered differently; see compareLandings.
void compareOnePass(const Tables &found, const Tables &expected, const std::vector<uint32_t> &ranks) {
  const OnePassHead &head = *found.onePass.head;
  const OnePassHead &wanted = *expected.onePass.head;
  CHECK(head.ranks == wanted.ranks && head.locals == wanted.locals && head.remotes == wanted.remotes);
  CHECK(head.topk == wanted.topk && head.maxTokens == wanted.maxTokens);
  CHECK(std::equal(head.tokens, head.tokens + head.ranks, wanted.tokens));
  CHECK(std::equal(head.local, head.local + head.locals, wanted.local));
  CHECK(std::equal(head.remote, head.remote + head.remotes, wanted.remote));
  CHECK(std::equal(head.localOf, head.localOf + head.ranks, wanted.localOf));
  CHECK(std::equal(head.localStart, head.localStart + head.locals, wanted.localStart));
  uint64_t entries = 0;
  for (const uint32_t rank : ranks) entries += uint64_t{head.tokens[rank]} * head.topk;
  for (uint64_t entry = 0; entry < entries; entry++) {
    CHECK(found.onePass.send[entry].row == expected.onePass.send[entry].row);
    if (found.onePass.send[entry].row >= 0)
      CHECK(found.onePass.send[entry].peer == expected.onePass.send[entry].peer);
    const SumTerm &term = found.onePass.terms[entry];
    CHECK(term.info == expected.onePass.terms[entry].info);
    if ((term.info & termIsLanding) == 0) CHECK(term.row == expected.onePass.terms[entry].row);
  }
  for (uint32_t local = 0; local < head.locals; local++) {
    for (uint32_t i = 0; i < head.remotes; i++) {
      const uint32_t source = head.remote[i];
      const uint64_t at = local * found.onePass.arrivalTokens + head.arrivalStart[source];
      const uint64_t wantedAt = local * expected.onePass.arrivalTokens + wanted.arrivalStart[source];
      CHECK(head.arrivalStart[source] + head.tokens[source] <= found.onePass.arrivalTokens);
      CHECK(std::equal(found.onePass.arrival + at * head.topk,
                       found.onePass.arrival + (at + head.tokens[source]) * head.topk,
                       expected.onePass.arrival + wantedAt * head.topk));
    }
  }
}

// The lowest slot of a token at a rank, or -1.
int32_t lowestAt(const Place *token, uint32_t topk, uint32_t rank) {
  int32_t lowest = -1;
  for (uint32_t k = 0; k < topk; k++) {
    if (token[k].row >= 0 && token[k].peer == rank && (lowest < 0 || token[k].row < lowest)) {
      lowest = token[k].row;
    }
  }
  return lowest;
}

// The same tables by their definitions, token by token.
void compareObvious(const Tables &found, const fusco_plan &plan, const std::vector<uint32_t> &deviceOf) {
  const OnePassHead &head = *found.onePass.head;
  const uint32_t device = deviceOf[head.local[0]];
  const uint32_t topk = plan.topk;
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    for (uint32_t token = 0; token < plan.rank[rank].tokens; token++) {
      const Place *at = plan.rank[rank].places.data() + uint64_t{token} * topk;
      if (deviceOf[rank] != device) {
        for (uint32_t local = 0; local < head.locals; local++) {
          const uint32_t here = head.local[local];
          const uint64_t row = local * found.onePass.arrivalTokens + head.arrivalStart[rank] + token;
          for (uint32_t k = 0; k < topk; k++) {
            const bool isHere = at[k].row >= 0 && at[k].peer == here;
            const bool lands = isHere && at[k].row == lowestAt(at, topk, here);
            const uint32_t wanted =
                isHere ? static_cast<uint32_t>(at[k].row) | (lands ? isLanding : 0) : noSlot;
            CHECK(found.onePass.arrival[row * topk + k] == wanted);
          }
        }
        continue;
      }
      const uint64_t first = (uint64_t{head.localStart[head.localOf[rank]]} + token) * topk;
      std::vector<uint32_t> terms;
      for (uint32_t from = 0; from < plan.ranks; from++) {
        bool hasLanded = false;
        for (uint32_t k = 0; k < topk; k++) {
          if (at[k].row < 0 || at[k].peer != from) continue;
          const uint32_t info = from << termRankShift | termIsUsed;
          if (deviceOf[from] == device) terms.push_back(k | info);
          if (deviceOf[from] != device && !hasLanded) terms.push_back(info | termIsLanding);
          hasLanded = true;
        }
      }
      terms.resize(topk, 0);
      for (uint32_t k = 0; k < topk; k++) {
        CHECK(found.onePass.terms[first + k].info == terms[k]);
        const bool isSent =
            at[k].row >= 0 && (deviceOf[at[k].peer] == device || at[k].row == lowestAt(at, topk, at[k].peer));
        CHECK((found.onePass.send[first + k].row >= 0) == isSent);
        if (isSent) CHECK(found.onePass.send[first + k].row == at[k].row);
      }
    }
  }
}

// Every partial sum lands where its home looks for it, in a row of its own below the bound.
void compareLandings(const Buffers &buffers, const std::vector<Tables> &tables,
                     const std::vector<uint32_t> &deviceOf) {
  const PlanSizes &sizes = buffers.sizes;
  for (uint32_t home = 0; home < sizes.ranks; home++) {
    const Tables &own = tables[deviceOf[home]];
    const OnePassHead &head = *own.onePass.head;
    std::set<uint32_t> rows;
    const uint32_t most = sizes.maxTokens * landingRowsPerToken(sizes, buffers.deviceRanks[home]);
    for (uint32_t token = 0; token < head.tokens[home]; token++) {
      const uint64_t first = (uint64_t{head.localStart[head.localOf[home]]} + token) * sizes.topk;
      for (uint32_t k = 0; k < sizes.topk; k++) {
        const SumTerm &term = own.onePass.terms[first + k];
        if ((term.info & termIsLanding) == 0) continue;
        CHECK(term.row < most && rows.insert(term.row).second);
        const uint32_t sender = term.info >> termRankShift & 0xff;
        const Tables &there = tables[deviceOf[sender]];
        const OnePassHead &senderHead = *there.onePass.head;
        const uint64_t at =
            senderHead.localOf[sender] * there.onePass.arrivalTokens + senderHead.arrivalStart[home] + token;
        CHECK(there.onePass.arrivalRow[at] == term.row);
      }
    }
  }
}

void compare(const RandomRouting &routed, const std::vector<uint32_t> &deviceOf, uint32_t limit) {
  const CheckedPlan checked = uploadedPlan(routed, limit == 0 ? FUSCO_MAX_ROWS : limit);
  const fusco_plan &plan = *checked.plan;
  Buffers buffers(routed, deviceOf, limit);
  const uint32_t devices = *std::max_element(deviceOf.begin(), deviceOf.end()) + 1;
  std::vector<Tables> all;
  std::vector<uint32_t> landingRows(plan.ranks);
  for (uint32_t device = 0; device < devices; device++) {
    std::vector<uint32_t> ranks;
    for (uint32_t rank = 0; rank < plan.ranks; rank++) {
      if (deviceOf[rank] == device) ranks.push_back(rank);
    }
    const Tables &found = all.emplace_back(buffers, ranks);
    compareDirect(found, plan, ranks);
    if (devices == 1) continue;
    const Tables expected(plan, deviceOf, device, ranks, landingRows);
    compareOnePass(found, expected, ranks);
    compareObvious(found, plan, deviceOf);
  }
  if (devices > 1) compareLandings(buffers, all, deviceOf);
}

void inside(const void *table, uint64_t bytes, const std::vector<uint8_t> &part, const char *what) {
  const auto *first = static_cast<const uint8_t *>(table);
  if (first >= part.data() && first + bytes <= part.data() + part.size()) return;
  std::fprintf(stderr, "%s are not in their part of an inbox\n", what);
  std::exit(1);
}

// Planners of other sizes take turns with an inbox: what a process tells early, before the others have read
// the rest of the plan before, must never lie in the part of the rest.
void checkInbox(const PlanSizes &sizes, const PlanSizes &others) {
  const FactBytes own = factBytes(sizes), other = factBytes(others);
  std::vector<uint8_t> counts(std::max(own.counts, other.counts));
  std::vector<uint8_t> arrivals(std::max(own.arrivals, other.arrivals));
  const FactInbox inbox{counts.data(), arrivals.data()};
  for (const PlanSizes &each : {sizes, others}) {
    for (uint32_t from = 0; from < each.ranks; from++) {
      const Facts facts = inbox.of(each, from);
      inside(facts.counts, each.targets * sizeof(uint32_t), counts, "counts");
      inside(facts.tokens, sizeof(uint32_t), counts, "tokens");
      const uint64_t nodes = each.isFlat != 0 ? 0 : each.nodes;
      inside(facts.nodeRows, nodes * sizeof(uint32_t), arrivals, "rows of nodes");
      inside(facts.arrival, each.maxEntries() * sizeof(uint32_t), arrivals, "slots");
      inside(facts.arrivalRow, each.maxTokens * sizeof(uint32_t), arrivals, "landing rows");
    }
  }
}

}  // namespace

int main() {
  constexpr uint32_t cases = 2000;
  PlanSizes before = sizesOf(RandomRouting(cases), 0);
  for (uint32_t seed = 0; seed < cases; seed++) {
    const RandomRouting routed(seed);
    const PlanSizes sizes = sizesOf(routed, 0);
    checkInbox(sizes, before);
    before = sizes;
    Random random(seed);
    const uint32_t ranks = routed.options.ranks;
    const uint32_t limit = upTo(random, 2) == 0 ? 1 + upTo(random, 30) : 0;
    // One rank on each device; equal blocks of ranks; ranks dealt to devices in turn; one device.
    for (const uint32_t devices : {ranks, (ranks + 1) / 2, std::min(ranks, 2u), 1u}) {
      std::vector<uint32_t> deviceOf;
      const bool inBlocks = upTo(random, 1) == 0;
      for (uint32_t rank = 0; rank < ranks; rank++) {
        deviceOf.push_back(inBlocks ? rank * devices / ranks : rank % devices);
      }
      compare(routed, deviceOf, limit);
    }
  }
  std::printf("%u routings\n", cases);
  return 0;
}
