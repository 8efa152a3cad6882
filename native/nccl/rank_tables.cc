#include "rank_tables.hpp"

#include <algorithm>

#include "failure.hpp"
#include "plan_layout.h"
#include "shard.hpp"

namespace fusco::nccl {

Neighbors::Neighbors(uint32_t groupRanks, uint32_t ownRank, const uint32_t *hosts)
    : ranks(groupRanks), rank(ownRank), self(0), localOf(groupRanks, -1) {
  for (uint32_t peer = 0; peer < ranks; peer++) {
    if (hosts[peer] != hosts[rank]) continue;
    localOf[peer] = static_cast<int32_t>(local.size());
    local.push_back(peer);
  }
  self = static_cast<uint32_t>(localOf[rank]);
  if (local.size() > maxNeighbors) {
    throw Failure(FUSCO_E_LIMIT, "%zu ranks on one host; at most %u reach each other's memory", local.size(),
                  maxNeighbors)
        .limited(local.size(), maxNeighbors);
  }
}

namespace {

void checkDesc(const fusco_nccl_plan_desc &desc, const Neighbors &near) {
  if (desc.first_instance == nullptr || desc.first_instance[0] != 0 ||
      desc.first_instance[near.ranks] > FUSCO_MAX_INSTANCES ||
      !std::is_sorted(desc.first_instance, desc.first_instance + near.ranks + 1)) {
    throw Failure(FUSCO_E_OPTION, "first_instance does not ascend from 0 to at most %d", FUSCO_MAX_INSTANCES);
  }
  if (desc.slice_rows < 1 || desc.slice_rows > FUSCO_MAX_ROWS) {
    throw Failure(FUSCO_E_OPTION, "slices of %u rows", desc.slice_rows)
        .limited(desc.slice_rows, FUSCO_MAX_ROWS);
  }
  if (desc.ranks_per_node < 1 || near.ranks % desc.ranks_per_node != 0) {
    throw Failure(FUSCO_E_RANKS, "%u ranks a node do not divide %u ranks", desc.ranks_per_node, near.ranks)
        .limited(desc.ranks_per_node, near.ranks);
  }
  if (desc.strategy != FUSCO_STRATEGY_HIER) return;
  if (desc.groups == nullptr) throw Failure(FUSCO_E_OPTION, "a hierarchical plan needs its groups");
  for (uint32_t first = 0; first < near.ranks; first += desc.ranks_per_node) {
    for (uint32_t i = 1; i < desc.ranks_per_node; i++) {
      if (near.isLocal(first) == near.isLocal(first + i)) continue;
      throw Failure(
          FUSCO_E_BACKEND,
          "ranks %u and %u are one node of the plan and do not reach each other's memory; plan with "
          "ranksPerNode 1 or flat",
          first, first + i)
          .atRank(first + i);
    }
  }
}

Failure badEntry(fusco_status status, const char *what, uint32_t rank, size_t entry) {
  return Failure(status, "entry %zu of rank %u %s", entry, rank, what)
      .atRank(rank)
      .at("/ranks/%u/entries/%zu", rank, entry);
}

Failure badForward(const char *what, uint32_t rank, size_t row) {
  return Failure(FUSCO_E_SEGMENT_BOUNDS, "forwarded row %zu of rank %u %s", row, rank, what)
      .atRank(rank)
      .at("/ranks/%u/forward/%zu", rank, row);
}

// A section with exactly so many elements.
template <class T>
std::vector<T> sectionOf(const ShardReader &reader, int section, uint64_t elements, uint32_t rank) {
  auto values = reader.section<T>(section);
  if (values.size() == elements) return values;
  throw Failure(FUSCO_E_SHARD_HEAD, "section %d of rank %u has %zu elements, not %llu", section, rank,
                values.size(), static_cast<unsigned long long>(elements))
      .atRank(rank);
}

uint32_t forwarderOf(const fusco_nccl_plan_desc &desc, uint32_t rank, uint32_t node) {
  for (uint32_t i = 0; i < desc.ranks_per_node; i++) {
    const uint32_t candidate = node * desc.ranks_per_node + i;
    if (desc.groups[candidate] == desc.groups[rank]) return candidate;
  }
  throw Failure(FUSCO_E_SHARD_HEAD, "node %u has no rank of group %u", node, desc.groups[rank]).atRank(rank);
}

}  // namespace

RankTables::RankTables(const fusco_nccl_plan_desc &desc, const Neighbors &near)
    : entrySend(near.ranks),
      entryReceive(near.ranks),
      rowSend(near.ranks),
      rowReceive(near.ranks),
      near_(near) {
  checkDesc(desc, near);
  const ShardReader reader(desc.shard, near.rank, near.ranks);
  if (reader.word(FUSCO_W_INSTANCES) != desc.first_instance[near.ranks] ||
      reader.word(FUSCO_W_FIRST_INSTANCE) != desc.first_instance[near.rank] ||
      reader.word(FUSCO_W_LOCAL_INSTANCES) !=
          desc.first_instance[near.rank + 1] - desc.first_instance[near.rank]) {
    throw Failure(FUSCO_E_SHARD_HEAD, "the shard of rank %u hosts other instances than its placement",
                  near.rank)
        .atRank(near.rank);
  }
  sizes.ranks = 1;
  sizes.firstRank = near.rank;
  sizes.ranksPerNode = desc.ranks_per_node;
  sizes.topk = reader.word(FUSCO_W_TOPK);
  if (desc.strategy == FUSCO_STRATEGY_HIER) {
    sizes.tree = desc.partial == FUSCO_PARTIAL_F32 ? Tree::kept : Tree::rounded;
    forwards = desc.ranks_per_node < near.ranks;
  }
  sizes.rank.resize(1);
  reach.assign(near.local.size(), 0);
  readBlocks(reader);
  readRuns(reader);
  readEntries(reader, desc);
  entrySend.close();
  entryReceive.close();
  if (forwards) readForward(reader, desc);
  rowSend.close();
  rowReceive.close();
  listSums();
  partialRow_ = {};
  rankOfEntry_ = {};
  slotOfEntry_ = {};
}

void RankTables::readBlocks(const ShardReader &reader) {
  const uint32_t rank = near_.rank;
  const auto offsets = reader.section<uint32_t>(FUSCO_S_EXPERT_OFFSET);
  const auto rows = reader.section<uint32_t>(FUSCO_S_EXPERT_ROWS);
  RankPlan &part = sizes.rank[0];
  part.tokens = reader.word(FUSCO_W_TOKENS);
  part.recvRows = reader.word(FUSCO_W_RECV_ROWS);
  if (offsets.front() != 0 || offsets.back() != part.recvRows) {
    throw Failure(FUSCO_E_SHARD_HEAD, "rank %u: blocks of rows %u to %u of %u", rank, offsets.front(),
                  offsets.back(), part.recvRows)
        .atRank(rank);
  }
  for (size_t local = 0; local < rows.size(); local++) {
    const uint32_t begin = offsets[local];
    const uint32_t end = offsets[local + 1];
    if (begin > end || end > part.recvRows || rows[local] > end - begin) {
      throw Failure(FUSCO_E_SEGMENT_BOUNDS, "rank %u block %zu: %u rows in %u to %u of %u", rank, local,
                    rows[local], begin, end, part.recvRows)
          .atRank(rank)
          .at("/ranks/%u/blocks/%zu", rank, local);
    }
    if (rows[local] < end - begin) part.padding.push_back({begin + rows[local], end - begin - rows[local]});
  }
}

// Runs of a block follow one another by source and fill its real rows, so that what arrives in place lands
// inside the receive buffer and nothing lands twice.
void RankTables::readRuns(const ShardReader &reader) {
  const uint32_t rank = near_.rank;
  const uint64_t local = reader.word(FUSCO_W_LOCAL_INSTANCES);
  const auto offsets = reader.section<uint32_t>(FUSCO_S_EXPERT_OFFSET);
  const auto blockRows = reader.section<uint32_t>(FUSCO_S_EXPERT_ROWS);
  const auto first = sectionOf<uint32_t>(reader, FUSCO_S_RUN_ROW, local * near_.ranks, rank);
  const auto rows = sectionOf<uint32_t>(reader, FUSCO_S_RUN_ROWS, local * near_.ranks, rank);
  for (uint64_t block = 0; block < local; block++) {
    uint64_t next = offsets[block];
    for (uint32_t source = 0; source < near_.ranks; source++) {
      const uint64_t at = block * near_.ranks + source;
      if (rows[at] == 0) continue;
      if (first[at] != next) {
        throw Failure(FUSCO_E_SEGMENT_BOUNDS, "run %llu of rank %u starts at row %u, not %llu",
                      static_cast<unsigned long long>(at), rank, first[at],
                      static_cast<unsigned long long>(next))
            .atRank(rank)
            .at("/ranks/%u/runs/%llu", rank, static_cast<unsigned long long>(at));
      }
      next += rows[at];
      if (!isDirect(source)) entryReceive.append(source, {first[at], rows[at]});
    }
    if (next != uint64_t{offsets[block]} + blockRows[block]) {
      throw Failure(FUSCO_E_SEGMENT_BOUNDS, "the runs of block %llu of rank %u end at row %llu",
                    static_cast<unsigned long long>(block), rank, static_cast<unsigned long long>(next))
          .atRank(rank);
    }
  }
}

// An entry's slot is its run's next row: checked, so that no two entries share one.
void RankTables::readEntries(const ShardReader &reader, const fusco_nccl_plan_desc &desc) {
  const uint32_t rank = near_.rank;
  const uint32_t instances = reader.word(FUSCO_W_INSTANCES);
  slotOfEntry_ = reader.section<int32_t>(FUSCO_S_ENTRY_SLOT);
  const auto instance = reader.section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
  const auto runFirst = sectionOf<uint32_t>(reader, FUSCO_S_SEND_ROW, instances, rank);
  const auto runRows = sectionOf<uint32_t>(reader, FUSCO_S_SEND_ROWS, instances, rank);
  const size_t entries = slotOfEntry_.size();

  std::vector<uint32_t> owner(instances);
  std::vector<uint64_t> streamFirst(instances, 0);
  uint64_t streamRows = 0;
  for (uint32_t peer = 0; peer < near_.ranks; peer++) {
    for (uint32_t i = desc.first_instance[peer]; i < desc.first_instance[peer + 1]; i++) {
      owner[i] = peer;
      if (uint64_t{runFirst[i]} + runRows[i] > FUSCO_MAX_ROWS) {
        throw Failure(FUSCO_E_SEGMENT_BOUNDS, "run %u of rank %u ends behind row %d", i, rank, FUSCO_MAX_ROWS)
            .atRank(rank);
      }
      streamFirst[i] = streamRows;
      if (isDirect(peer)) continue;
      entrySend.append(peer, {streamRows, runRows[i]});
      streamRows += runRows[i];
    }
  }
  if (streamRows > entries) {
    throw Failure(FUSCO_E_SHARD_HEAD, "rank %u sends %llu rows of %zu entries", rank,
                  static_cast<unsigned long long>(streamRows), entries)
        .atRank(rank);
  }
  direct.assign(entries, {0, -1});
  returned.assign(entries, {0, -1});
  rankOfEntry_.assign(entries, 0);
  entryStream.assign(streamRows, 0);
  std::vector<uint32_t> seen(instances, 0);
  uint32_t kept = 0;
  for (size_t entry = 0; entry < entries; entry++) {
    const int32_t slot = slotOfEntry_[entry];
    if (slot < 0) {
      if (slot != FUSCO_SLOT_MASKED && slot != FUSCO_SLOT_DROPPED) {
        throw badEntry(FUSCO_E_ENTRY, "is neither a slot nor masked nor dropped", rank, entry);
      }
      continue;
    }
    const uint32_t i = instance[entry];
    if (i >= instances) throw badEntry(FUSCO_E_SEGMENT_BOUNDS, "names no instance", rank, entry);
    if (seen[i] >= runRows[i] || static_cast<uint32_t>(slot) != runFirst[i] + seen[i]) {
      throw badEntry(FUSCO_E_SEGMENT_BOUNDS, "is not the next row of its run", rank, entry);
    }
    kept++;
    const uint32_t peer = owner[i];
    rankOfEntry_[entry] = peer;
    if (isDirect(peer)) {
      const auto neighbor = static_cast<uint32_t>(near_.localOf[peer]);
      direct[entry] = returned[entry] = {neighbor, slot};
      reach[neighbor] = std::max(reach[neighbor], static_cast<uint32_t>(slot) + 1);
    } else {
      const uint64_t at = streamFirst[i] + seen[i];
      entryStream[at] = static_cast<uint32_t>(entry);
      returned[entry] = {landingPeer, static_cast<int32_t>(at)};
    }
    seen[i]++;
  }
  if (seen != runRows || kept != reader.word(FUSCO_W_KEPT)) {
    throw Failure(FUSCO_E_SHARD_HEAD, "rank %u keeps %u entries; its runs and its head say otherwise", rank,
                  kept)
        .atRank(rank);
  }
  const uint32_t own = static_cast<uint32_t>(near_.self);
  if (reach[own] > sizes.rank[0].recvRows) {
    throw Failure(FUSCO_E_SEGMENT_BOUNDS, "rank %u writes its own row %u of %u", rank, reach[own] - 1,
                  sizes.rank[0].recvRows)
        .atRank(rank);
  }
  sizes.rank[0].kept = kept;
  sizes.kept = kept;
  sizes.tokens = sizes.rank[0].tokens;
}

void RankTables::readForward(const ShardReader &reader, const fusco_nccl_plan_desc &desc) {
  const uint32_t rank = near_.rank;
  const uint32_t topk = sizes.topk;
  const uint32_t nodes = near_.ranks / desc.ranks_per_node;
  const auto nodeRows = sectionOf<uint32_t>(reader, FUSCO_S_FORWARD_ROWS, nodes, rank);
  const auto tokens = reader.section<uint32_t>(FUSCO_S_FORWARD_TOKEN);
  const auto offsets = sectionOf<uint32_t>(reader, FUSCO_S_DISTRIBUTE_OFFSET, tokens.size() + 1, rank);
  const auto entries = reader.section<uint32_t>(FUSCO_S_DISTRIBUTE_ENTRY);
  const auto stageRows = sectionOf<uint32_t>(reader, FUSCO_S_STAGE_ROWS, near_.ranks, rank);
  partialRow_.assign(uint64_t{sizes.rank[0].tokens} * nodes, UINT32_MAX);
  if (!std::is_sorted(offsets.begin(), offsets.end()) || offsets.front() != 0 ||
      offsets.back() != entries.size()) {
    throw Failure(FUSCO_E_SHARD_HEAD, "the distribution lists of rank %u do not follow one another", rank)
        .atRank(rank);
  }
  uint64_t row = 0;
  for (uint32_t node = 0; node < nodes; node++) {
    if (row + nodeRows[node] > tokens.size()) throw badForward("is missing", rank, tokens.size());
    const uint64_t end = row + nodeRows[node];
    if (isDirect(node * desc.ranks_per_node)) {
      row = end;
      continue;
    }
    rowSend.append(forwarderOf(desc, rank, node), {rowStream.size(), nodeRows[node]});
    for (int64_t before = -1; row < end; row++) {
      const uint32_t token = tokens[row];
      if (token >= sizes.rank[0].tokens || token <= before) throw badForward("is out of order", rank, row);
      before = token;
      partialRow_[uint64_t{token} * nodes + node] = static_cast<uint32_t>(rowStream.size());
      rowStream.push_back(token);
      rowEntries.push_back(offsets[row + 1] - offsets[row]);
      int64_t last = -1;
      for (uint32_t at = offsets[row]; at < offsets[row + 1]; at++) {
        const uint32_t entry = entries[at];
        if (entry >= slotOfEntry_.size() || entry / topk != token || entry <= last ||
            slotOfEntry_[entry] < 0 || rankOfEntry_[entry] / desc.ranks_per_node != node) {
          throw badForward("has an entry of another row", rank, row);
        }
        last = entry;
        placeEntry.push_back(entry);
        placeOf.push_back({rankOfEntry_[entry], slotOfEntry_[entry]});
      }
    }
  }
  // Entries of a row ascend and belong to it, so as many as there are means each of them once.
  if (placeEntry.size() != entryStream.size()) {
    throw Failure(FUSCO_E_SHARD_HEAD, "rank %u forwards %zu of %zu entries for other nodes", rank,
                  placeEntry.size(), entryStream.size())
        .atRank(rank);
  }
  uint64_t landed = 0;
  for (uint32_t source = 0; source < near_.ranks; source++) {
    if (isDirect(source)) continue;
    rowReceive.append(source, {landed, stageRows[source]});
    landed += stageRows[source];
  }
  if (landed > FUSCO_MAX_ROWS) {
    throw Failure(FUSCO_E_LIMIT, "rank %u forwards %llu rows", rank, static_cast<unsigned long long>(landed))
        .atRank(rank);
  }
}

// In ascending k; along a tree node by node, where a node of another host comes as one finished partial sum.
void RankTables::listSums() {
  const uint32_t topk = sizes.topk;
  const bool tree = sizes.tree != Tree::none;
  const uint32_t nodes = near_.ranks / sizes.ranksPerNode;
  std::vector<uint32_t> order;
  for (uint32_t token = 0; token < sizes.rank[0].tokens; token++) {
    order.clear();
    for (uint32_t k = 0; k < topk; k++) {
      if (returned[token * uint64_t{topk} + k].row >= 0) order.push_back(token * topk + k);
    }
    const auto nodeOf = [&](uint32_t entry) { return rankOfEntry_[entry] / sizes.ranksPerNode; };
    if (tree) {
      std::stable_sort(order.begin(), order.end(),
                       [&](uint32_t a, uint32_t b) { return nodeOf(a) < nodeOf(b); });
    }
    for (size_t i = 0; i < order.size(); i++) {
      const Place place = returned[order[i]];
      const bool closes = tree && (i + 1 == order.size() || nodeOf(order[i + 1]) != nodeOf(order[i]));
      if (tree && place.peer == landingPeer) {
        const uint32_t row = partialRow_[uint64_t{token} * nodes + nodeOf(order[i])];
        if (closes) home.terms.push_back({landingPeer, row, 0, closesNode | isPartial});
        continue;
      }
      home.terms.push_back({place.peer, static_cast<uint32_t>(place.row), order[i], closes ? closesNode : 0});
    }
    home.close();
  }
}

Landing readLanding(const Neighbors &near, const SendOrder &received, uint32_t topk, uint32_t ranksPerNode,
                    const std::vector<uint32_t> &rowEntries, const std::vector<Place> &places,
                    std::vector<uint32_t> &reach) {
  const uint32_t firstRank = near.rank / ranksPerNode * ranksPerNode;
  Landing landing;
  landing.places.reserve(places.size());
  uint64_t next = 0;
  uint64_t row = 0;
  for (uint32_t source = 0; source < near.ranks; source++) {
    const auto refuse = [&](const char *what) {
      throw Failure(FUSCO_E_PEER_MISMATCH, "rank %u sent a forwarded row that %s", source, what)
          .atRank(source);
    };
    for (uint32_t i = 0; i < received.rows(source); i++, row++) {
      const uint32_t count = rowEntries[row];
      if (count < 1 || count > topk || count > places.size() - next) refuse("goes nowhere or everywhere");
      for (uint32_t p = 0; p < count; p++, next++) {
        const Place place = places[next];
        if (place.peer < firstRank || place.peer - firstRank >= ranksPerNode || place.row < 0) {
          refuse("leaves the node");
        }
        const auto neighbor = static_cast<uint32_t>(near.localOf[place.peer]);
        reach[neighbor] = std::max(reach[neighbor], static_cast<uint32_t>(place.row) + 1);
        landing.places.push_back({neighbor, place.row});
      }
      landing.offset.push_back(static_cast<uint32_t>(next));
    }
  }
  return landing;
}

}  // namespace fusco::nccl
