// Runs all ranks of a group over the wire's tables and rounds, in one process and without a GPU: rows are
// tags, a message is a copy, and a round ends when both sides of each of its messages have come to it.
// Compares where rows arrive, and what is added to what in which order, with what the shards say.
//
//   test_wire DIR     DIR/plan.txt: ranks, ranks a node, hierarchical (0, 1), sums by token (0, 1), slice
//                     rows, peers a round, bound of receive buffers or 0; then the machine of each rank; then
//                     ranks + 1 first instances; then the groups of a hierarchical plan. DIR/rank{r}.shard
//
// Test of native/nccl/rounds.cc, rank_tables.cc and row_copies.cc; test/native/wire.test.ts writes the plans.

#include <algorithm>
#include <cstdio>
#include <deque>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "failure.hpp"
#include "rank_tables.hpp"
#include "row_copies.hpp"

namespace {

using namespace fusco;
using namespace fusco::nccl;

using Tag = uint64_t;
constexpr Tag nothing = ~Tag{0};
// A row on the wire: one tag, or those of a partial sum in their order.
using Row = std::vector<Tag>;
using Rows = std::vector<Row>;

int failures = 0;

void check(bool right, const char *what, uint32_t rank, uint64_t at) {
  if (right) return;
  if (failures++ < 10) std::printf("%s: rank %u, %llu\n", what, rank, static_cast<unsigned long long>(at));
}

Tag tagOf(uint32_t rank, uint64_t row) { return uint64_t{rank} << 32 | row; }

struct Rank {
  std::unique_ptr<Neighbors> neighbors;
  std::unique_ptr<RankTables> tables;
  std::vector<uint32_t> landedEntries;
  std::vector<Place> landedPlaces;
  Landing landing;
  std::vector<Place> directOnce;
  Landing landedOnce;
  RowCopies copies;
  Rows received;                  // [recv rows]
  std::vector<Tag> placeWeights;  // what came for each place
};

struct Plan {
  uint32_t ranks = 0, ranksPerNode = 0, hierarchical = 0, sumsByToken = 0, sliceRows = 0, peersPerRound = 0;
  uint32_t bound = 0;  // slots from here on behave as dropped
  std::vector<uint32_t> machines, firstInstance;
  std::vector<uint16_t> groups;
  std::vector<std::vector<uint8_t>> shards;

  explicit Plan(const std::string &folder) {
    std::ifstream file(folder + "/plan.txt");
    file >> ranks >> ranksPerNode >> hierarchical >> sumsByToken >> sliceRows >> peersPerRound >> bound;
    if (bound == 0) bound = FUSCO_MAX_ROWS;
    machines.resize(ranks);
    firstInstance.resize(ranks + 1);
    for (uint32_t &machine : machines) file >> machine;
    for (uint32_t &first : firstInstance) file >> first;
    for (uint32_t i = 0; hierarchical != 0 && i < ranks; i++) {
      uint32_t group = 0;
      file >> group;
      groups.push_back(static_cast<uint16_t>(group));
    }
    for (uint32_t rank = 0; rank < ranks; rank++) {
      std::ifstream shard(folder + "/rank" + std::to_string(rank) + ".shard", std::ios::binary);
      shards.emplace_back(std::istreambuf_iterator<char>(shard), std::istreambuf_iterator<char>());
    }
  }

  // Whether an entry with this slot has a row.
  bool isKept(int32_t slot) const { return slot >= 0 && static_cast<uint32_t>(slot) < bound; }
  uint32_t ownerOf(uint32_t instance) const {
    uint32_t rank = 0;
    while (firstInstance[rank + 1] <= instance) rank++;
    return rank;
  }
};

// One side of a transfer on one rank: reads row i of a slice, or takes it. `ranges` of kernels are numbers of
// the whole send order.
struct Side {
  const SendOrder *send;
  const SendOrder *receive;
  std::function<Row(uint64_t number, uint64_t inPlaceRow)> read;
  std::function<void(uint64_t number, uint64_t inPlaceRow, const Row &row)> take;
};

// Rows of one message in the send order.
std::vector<std::pair<uint64_t, uint64_t>> numbersOf(const SendOrder &sendOrder, const Slice &slice) {
  std::vector<std::pair<uint64_t, uint64_t>> numbers;
  uint64_t next = sendOrder.start(slice.peer) + slice.first;
  sendOrder.forEachPiece(slice.peer, slice.first, slice.rows, [&](Run run) {
    for (uint32_t i = 0; i < run.rows; i++) numbers.push_back({next++, run.first + i});
  });
  return numbers;
}

// The cuts of one message: both sides must cut in the same way.
std::vector<uint32_t> cutsOf(const SendOrder &sendOrder, const Slice &slice) {
  std::vector<uint32_t> cuts;
  sendOrder.forEachPiece(slice.peer, slice.first, slice.rows, [&](Run run) { cuts.push_back(run.rows); });
  return cuts;
}

// Runs the rounds of all ranks as NCCL would: a rank posts all messages of its round, and goes on when each
// has been matched.
void transfer(const Plan &plan, const std::vector<Side> &sides) {
  std::vector<std::vector<Round>> rounds;
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    rounds.push_back(
        makeRounds(rank, *sides[rank].send, *sides[rank].receive, plan.sliceRows, plan.peersPerRound));
  }
  std::vector<size_t> at(plan.ranks, 0);
  std::vector<std::vector<bool>> sent(plan.ranks), taken(plan.ranks);
  const auto begin = [&](uint32_t rank) {
    if (at[rank] >= rounds[rank].size()) return;
    sent[rank].assign(rounds[rank][at[rank]].send.size(), false);
    taken[rank].assign(rounds[rank][at[rank]].receive.size(), false);
  };
  for (uint32_t rank = 0; rank < plan.ranks; rank++) begin(rank);
  for (bool moved = true; moved;) {
    moved = false;
    for (uint32_t to = 0; to < plan.ranks; to++) {
      if (at[to] >= rounds[to].size()) continue;
      const Round &mine = rounds[to][at[to]];
      for (size_t r = 0; r < mine.receive.size(); r++) {
        const uint32_t from = mine.receive[r].peer;
        if (taken[to][r] || at[from] >= rounds[from].size()) continue;
        const Round &theirs = rounds[from][at[from]];
        for (size_t s = 0; s < theirs.send.size(); s++) {
          if (sent[from][s] || theirs.send[s].peer != to) continue;
          check(mine.index == theirs.index && mine.offset == theirs.offset,
                "a message of one round is received in another", to, mine.index);
          const Slice &out = theirs.send[s];
          const Slice &in = mine.receive[r];
          check(cutsOf(*sides[from].send, out) == cutsOf(*sides[to].receive, in),
                "a message is cut differently by its receiver", to, mine.index);
          const auto outNumbers = numbersOf(*sides[from].send, out);
          const auto inNumbers = numbersOf(*sides[to].receive, in);
          for (size_t i = 0; i < std::min(outNumbers.size(), inNumbers.size()); i++) {
            const Row row = sides[from].read(outNumbers[i].first, outNumbers[i].second);
            sides[to].take(inNumbers[i].first, inNumbers[i].second, row);
          }
          sent[from][s] = taken[to][r] = moved = true;
          break;
        }
      }
    }
    const auto all = [](const std::vector<bool> &flags) {
      return std::find(flags.begin(), flags.end(), false) == flags.end();
    };
    for (uint32_t rank = 0; rank < plan.ranks; rank++) {
      while (at[rank] < rounds[rank].size() && all(sent[rank]) && all(taken[rank])) {
        at[rank]++;
        begin(rank);
        moved = true;
      }
    }
  }
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    check(at[rank] == rounds[rank].size(), "a rank waits for ever in round", rank, at[rank]);
  }
}

// What forwarders are told when a plan is made.
void tellForwarders(const Plan &plan, std::vector<Rank> &ranks) {
  for (uint32_t from = 0; from < plan.ranks; from++) {
    const RankTables &tables = *ranks[from].tables;
    for (uint32_t to = 0; to < plan.ranks; to++) {
      check(tables.rowSend.rows(to) == ranks[to].tables->rowReceive.rows(from), "forwarded rows differ", from,
            to);
    }
  }
  for (uint32_t to = 0; to < plan.ranks; to++) {
    Rank &rank = ranks[to];
    for (uint32_t from = 0; from < plan.ranks; from++) {
      const RankTables &tables = *ranks[from].tables;
      uint64_t place = 0;
      for (uint64_t row = 0; row < tables.rowSend.total(); row++) {
        const uint32_t count = tables.rowEntries[row];
        const bool isHere =
            row >= tables.rowSend.start(to) && row < tables.rowSend.start(to) + tables.rowSend.rows(to);
        if (isHere) rank.landedEntries.push_back(count);
        for (uint32_t i = 0; i < count; i++, place++) {
          if (!isHere) continue;
          rank.landedPlaces.push_back(tables.placeOf[place]);
          rank.placeWeights.push_back(tagOf(from, tables.placeEntry[place]));
        }
      }
    }
    rank.landing = rank.tables->readLanding(rank.landedEntries, rank.landedPlaces);
  }
}

// What neighbors are told when a plan is made is accepted, and a lie about it is not.
void tellNeighbors(const Plan &plan, std::vector<Rank> &ranks) {
  std::vector<std::vector<bool>> isTaken;
  for (const Rank &rank : ranks) isTaken.emplace_back(rank.tables->sizes.rank[0].recvRows, false);
  for (uint32_t from = 0; from < plan.ranks; from++) {
    Rank &source = ranks[from];
    const uint32_t topk = source.tables->sizes.topk;
    const uint32_t self = source.neighbors->self;
    ToldCopies told(source.neighbors->count());
    source.directOnce = source.tables->direct;
    for (size_t entry = 0; entry < source.directOnce.size(); entry += topk) {
      keepLowest(source.directOnce.data() + entry, topk, self, told);
    }
    source.landedOnce = keepLowest(source.landing, self, told);
    check(told[self].empty(), "a rank copies rows that it has stored itself", from, told[self].size());
    for (uint32_t n = 0; n < told.size(); n++) {
      const uint32_t to = source.neighbors->rankAt[n];
      if (to == from || told[n].empty()) continue;
      const uint32_t toSelf = ranks[to].neighbors->self;
      const auto isRefused = [&](const std::vector<uint32_t> &words) {
        std::vector<bool> taken = isTaken[to];
        try {
          RowCopies().add(from, words.data(), words.size(), toSelf, taken);
        } catch (const Failure &failure) {
          return failure.error.status == FUSCO_E_PEER_MISMATCH;
        }
        return false;
      };
      const auto slots = static_cast<uint32_t>(isTaken[to].size());
      std::vector<std::vector<uint32_t>> lies(5, told[n]);
      lies[0].back() = slots;
      lies[1].back() |= isLanding;
      lies[2].front() &= ~isLanding;
      lies[3].push_back(told[n].back());
      lies[4].push_back(told[n].front());
      for (size_t lie = 0; lie < lies.size(); lie++) {
        check(isRefused(lies[lie]), "a lie about copies is accepted", to, lie);
      }
      ranks[to].copies.add(from, told[n].data(), told[n].size(), toSelf, isTaken[to]);
    }
  }
}

// No rank stores a row twice in the memory of another.
void checkSentOnce(const std::vector<Rank> &ranks) {
  for (uint32_t r = 0; r < ranks.size(); r++) {
    const Rank &rank = ranks[r];
    const auto isOnce = [&](const Place *places, size_t count) {
      std::vector<uint32_t> rows(rank.neighbors->count(), 0);
      for (size_t i = 0; i < count; i++) {
        if (places[i].row >= 0 && places[i].peer != rank.neighbors->self && ++rows[places[i].peer] > 1)
          return false;
      }
      return true;
    };
    const uint32_t topk = rank.tables->sizes.topk;
    for (size_t entry = 0; entry < rank.directOnce.size(); entry += topk) {
      check(isOnce(&rank.directOnce[entry], topk), "a token's row is sent twice", r, entry / topk);
    }
    const Landing &landed = rank.landedOnce;
    for (size_t row = 0; row + 1 < landed.offset.size(); row++) {
      check(isOnce(landed.places.data() + landed.offset[row], landed.offset[row + 1] - landed.offset[row]),
            "a forwarded row is sent twice", r, row);
    }
  }
}

void dispatch(const Plan &plan, std::vector<Rank> &ranks, const std::vector<ShardReader> &readers) {
  const auto put = [&](uint32_t rank, uint64_t slot, Tag tag) {
    check(slot < ranks[rank].received.size(), "a row outside of its buffer", rank, slot);
    if (slot >= ranks[rank].received.size()) return;
    check(ranks[rank].received[slot].empty(), "a row is written twice", rank, slot);
    ranks[rank].received[slot] = {tag};
  };
  for (Rank &rank : ranks) rank.received.assign(rank.tables->sizes.rank[0].recvRows, {});
  std::vector<Side> rowSides, entrySides;
  for (uint32_t r = 0; r < plan.ranks; r++) {
    Rank &rank = ranks[r];
    RankTables &tables = *rank.tables;
    for (size_t entry = 0; entry < rank.directOnce.size(); entry++) {
      const Place place = rank.directOnce[entry];
      if (place.row >= 0)
        put(rank.neighbors->rankAt[place.peer], static_cast<uint64_t>(place.row),
            tagOf(r, entry / tables.sizes.topk));
    }
    rowSides.push_back({&tables.rowSend, &tables.rowReceive,
                        [r, &tables](uint64_t row, uint64_t) { return Row{tagOf(r, tables.rowOrder[row])}; },
                        [&rank, put](uint64_t row, uint64_t, const Row &value) {
                          const Landing &landing = rank.landedOnce;
                          for (uint32_t p = landing.offset[row]; p < landing.offset[row + 1]; p++) {
                            const Place place = landing.places[p];
                            put(rank.neighbors->rankAt[place.peer], static_cast<uint64_t>(place.row),
                                value[0]);
                          }
                        }});
    entrySides.push_back({&tables.entrySend, &tables.entryReceive,
                          [r, &tables](uint64_t row, uint64_t) {
                            return Row{tagOf(r, tables.entryOrder[row] / tables.sizes.topk)};
                          },
                          [r, put](uint64_t, uint64_t slot, const Row &value) { put(r, slot, value[0]); }});
  }
  transfer(plan, ranks[0].tables->forwards ? rowSides : entrySides);
  for (uint32_t r = 0; r < plan.ranks; r++) {
    const RowCopies &copies = ranks[r].copies;
    for (uint32_t row = 0; row < copies.rows(); row++) {
      const Row from = ranks[r].received[copies.from[row]];
      check(from.size() == 1, "a row is copied before it has arrived", r, copies.from[row]);
      for (uint32_t p = copies.offset[row]; p < copies.offset[row + 1] && from.size() == 1; p++) {
        check(copies.places[p].peer == ranks[r].neighbors->self, "a copy goes to another rank", r, p);
        put(r, static_cast<uint64_t>(copies.places[p].row), from[0]);
      }
    }
  }

  // Every entry's row lies in its slot, and nothing lies anywhere else.
  std::vector<uint64_t> kept(plan.ranks, 0);
  for (uint32_t r = 0; r < plan.ranks; r++) {
    const auto slots = readers[r].section<int32_t>(FUSCO_S_ENTRY_SLOT);
    const auto instances = readers[r].section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
    for (size_t entry = 0; entry < slots.size(); entry++) {
      if (!plan.isKept(slots[entry])) continue;
      const uint32_t owner = plan.ownerOf(instances[entry]);
      kept[owner]++;
      const Row &row = ranks[owner].received[static_cast<size_t>(slots[entry])];
      check(row == Row{tagOf(r, entry / readers[r].word(FUSCO_W_TOPK))}, "a row is not in its slot", r,
            entry);
    }
  }
  for (uint32_t r = 0; r < plan.ranks; r++) {
    uint64_t written = 0;
    for (const Row &row : ranks[r].received) written += row.empty() ? 0 : 1;
    check(written == kept[r], "rows that nobody sent", r, written);
  }
}

// Rows of experts are tagged by where they lie; sums are lists of (tag, weight), a mark closing each node.
constexpr Tag closed = nothing - 1;

void combine(const Plan &plan, std::vector<Rank> &ranks, const std::vector<ShardReader> &readers) {
  const bool partials = ranks[0].tables->returnsPartials();
  const bool byNode = plan.hierarchical != 0 && plan.sumsByToken == 0;
  std::vector<Rows> landing(plan.ranks);
  std::vector<Side> sides;
  for (uint32_t r = 0; r < plan.ranks; r++) {
    Rank &rank = ranks[r];
    const RankTables &tables = *rank.tables;
    const SendOrder &send = partials ? tables.rowReceive : tables.entryReceive;
    const SendOrder &receive = partials ? tables.rowSend : tables.entrySend;
    landing[r].assign(receive.total(), {});
    const auto partial = [&rank](uint64_t row, uint64_t) {
      Row sum;
      for (uint32_t p = rank.landing.offset[row]; p < rank.landing.offset[row + 1]; p++) {
        const Place place = rank.landing.places[p];
        sum.push_back(tagOf(rank.neighbors->rankAt[place.peer], static_cast<uint64_t>(place.row)));
        sum.push_back(rank.placeWeights[p] & 0xffffffffu);
      }
      return sum;
    };
    const auto inPlace = [r](uint64_t, uint64_t slot) { return Row{tagOf(r, slot)}; };
    const auto take = [&landing, r](uint64_t, uint64_t row, const Row &value) { landing[r][row] = value; };
    sides.push_back({&send, &receive, inPlace, take});
    if (partials) sides.back().read = partial;
  }
  transfer(plan, sides);

  for (uint32_t r = 0; r < plan.ranks; r++) {
    const RankTables &tables = *ranks[r].tables;
    const uint32_t topk = tables.sizes.topk;
    const auto slots = readers[r].section<int32_t>(FUSCO_S_ENTRY_SLOT);
    const auto instances = readers[r].section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
    for (uint32_t token = 0; token < tables.sizes.rank[0].tokens; token++) {
      Row found;
      for (uint32_t t = tables.sums.offset[token]; t < tables.sums.offset[token + 1]; t++) {
        const SumTerm term = tables.sums.terms[t];
        if ((term.flags & isPartial) != 0) {
          const Row &partial = landing[r][term.row];
          found.insert(found.end(), partial.begin(), partial.end());
        } else {
          found.push_back(term.peer == landingPeer ? landing[r][term.row][0]
                                                   : tagOf(ranks[r].neighbors->rankAt[term.peer], term.row));
          found.push_back(term.weight);
        }
        if ((term.flags & closesNode) != 0) found.push_back(closed);
      }
      Row expected;
      const uint32_t nodes = byNode ? plan.ranks / plan.ranksPerNode : 1;
      for (uint32_t node = 0; node < nodes; node++) {
        const size_t before = expected.size();
        for (uint32_t k = 0; k < topk; k++) {
          const size_t entry = size_t{token} * topk + k;
          if (!plan.isKept(slots[entry])) continue;
          const uint32_t owner = plan.ownerOf(instances[entry]);
          if (byNode && owner / plan.ranksPerNode != node) continue;
          expected.push_back(tagOf(owner, static_cast<uint64_t>(slots[entry])));
          expected.push_back(entry);
        }
        if (byNode && expected.size() > before) expected.push_back(closed);
      }
      check(found == expected, "a token's sum", r, token);
    }
    // The gradient of the weights needs the row of every entry.
    for (size_t entry = 0; entry < tables.returned.size(); entry++) {
      check((tables.returned[entry].row >= 0) == plan.isKept(slots[entry]), "a returned row", r, entry);
    }
  }
}

// What ranks of a one-pass plan tell one another is accepted, and a lie about it is not.
void tellPeers(const Plan &plan, std::vector<Rank> &ranks) {
  const uint32_t topk = ranks[0].tables->sizes.topk;
  for (uint32_t from = 0; from < plan.ranks; from++) {
    RankTables &source = *ranks[from].tables;
    const RankPlaces places = {source.direct.data(), source.sizes.rank[0].tokens, topk};
    std::vector<std::vector<uint32_t>> landingRow(plan.ranks, std::vector<uint32_t>(places.tokens, noSlot));
    const uint32_t landingRows = places.numberLandingRows(
        plan.ranks, [&](uint32_t rank) { return rank != from; },
        [&](uint32_t rank, uint32_t token, uint32_t row) { landingRow[rank][token] = row; });
    for (uint32_t to = 0; to < plan.ranks; to++) {
      if (to == from) continue;
      RankTables &tables = *ranks[to].tables;
      std::vector<uint32_t> slots(uint64_t{places.tokens} * topk);
      places.writeArrival(to, slots.data());
      const auto isRefused = [&](const std::vector<uint32_t> &told, const std::vector<uint32_t> &rows) {
        // A refusal leaves the table half read. The other sources do not matter here.
        const std::vector<uint8_t> before = tables.sourceOfSlot;
        for (uint8_t &slotSource : tables.sourceOfSlot) {
          if (slotSource != from) slotSource = 0xff;
        }
        try {
          tables.checkArrival(from, told.data(), rows.data(), places.tokens, landingRows);
          tables.checkAllTold();
        } catch (const Failure &failure) {
          tables.sourceOfSlot = before;
          return failure.error.status == FUSCO_E_PEER_MISMATCH;
        }
        tables.sourceOfSlot = before;
        return false;
      };
      const auto first =
          std::find_if(slots.begin(), slots.end(), [](uint32_t slot) { return slot != noSlot; });
      if (first != slots.end()) {
        const auto at = static_cast<size_t>(first - slots.begin());
        for (const uint32_t lie : {noSlot, slots[at] ^ isLanding, (slots[at] & isLanding) + 1000000}) {
          std::vector<uint32_t> forged = slots;
          forged[at] = lie;
          check(isRefused(forged, landingRow[to]), "a lie about a slot is accepted", to, at);
        }
        std::vector<uint32_t> forged = landingRow[to];
        forged[at / topk] = landingRows;
        check(isRefused(slots, forged), "a lie about a landing row is accepted", to, at);
      }
      tables.checkArrival(from, slots.data(), landingRow[to].data(), places.tokens, landingRows);
    }
  }
  for (Rank &rank : ranks) rank.tables->checkAllTold();
}

}  // namespace

int main(int count, char **arguments) {
  if (count != 2) {
    std::printf("test_wire DIR\n");
    return 2;
  }
  try {
    const Plan plan(arguments[1]);
    std::vector<Rank> ranks(plan.ranks);
    std::vector<ShardReader> readers;
    for (uint32_t rank = 0; rank < plan.ranks; rank++) {
      const fusco_buffer shard = {const_cast<uint8_t *>(plan.shards[rank].data()), plan.shards[rank].size()};
      fusco_nccl_plan_desc desc = fusco_sized<fusco_nccl_plan_desc>();
      desc.shard = shard;
      desc.ranks_per_node = plan.ranksPerNode;
      desc.strategy = plan.hierarchical != 0 ? FUSCO_STRATEGY_HIER : FUSCO_STRATEGY_FLAT;
      desc.sum = plan.sumsByToken != 0 ? FUSCO_SUM_TOKEN : FUSCO_SUM_NODE;
      desc.rail_groups = plan.hierarchical != 0 ? plan.groups.data() : nullptr;
      desc.first_instance = plan.firstInstance.data();
      desc.slice_rows = plan.sliceRows;
      ranks[rank].neighbors = std::make_unique<Neighbors>(plan.ranks, rank, plan.machines.data());
      ranks[rank].tables = std::make_unique<RankTables>(desc, *ranks[rank].neighbors, plan.bound);
      readers.emplace_back(shard, rank, plan.ranks);
    }
    tellForwarders(plan, ranks);
    tellNeighbors(plan, ranks);
    checkSentOnce(ranks);
    dispatch(plan, ranks, readers);
    if (ranks[0].tables->isOnePass()) {
      tellPeers(plan, ranks);
    } else {
      combine(plan, ranks, readers);
    }
  } catch (const Failure &failure) {
    std::printf("%s: %s\n", fusco_status_name(failure.error.status), failure.error.message);
    return 1;
  }
  std::printf(failures == 0 ? "right\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
