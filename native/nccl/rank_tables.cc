#include "rank_tables.hpp"

#include <algorithm>

namespace fusco::nccl {

Neighbors::Neighbors(uint32_t groupRanks, uint32_t localRank, const uint32_t *machines)
    : ranks(groupRanks),
      rank(localRank),
      self(0),
      indexOf(groupRanks, -1),
      machineOf(machines, machines + groupRanks) {
  for (uint32_t peer = 0; peer < ranks; peer++) {
    if (machines[peer] != machines[rank]) continue;
    indexOf[peer] = static_cast<int32_t>(rankAt.size());
    rankAt.push_back(peer);
  }
  self = static_cast<uint32_t>(indexOf[rank]);
  if (rankAt.size() > maxNeighbors) {
    throw Failure(FUSCO_E_LIMIT, "%llu ranks on one machine; at most %u reach each other's memory",
                  rankAt.size(), maxNeighbors)
        .limited(rankAt.size(), maxNeighbors);
  }
}

void checkNodesOnMachines(uint32_t ranksPerNode, const Neighbors &neighbors) {
  for (uint32_t rank = 0; rank < neighbors.ranks; rank++) {
    const uint32_t first = rank / ranksPerNode * ranksPerNode;
    if (neighbors.machineOf[first] == neighbors.machineOf[rank]) continue;
    throw Failure(FUSCO_E_BACKEND,
                  "ranks %u and %u are one node of the plan and do not reach each other's memory; plan with "
                  "ranksPerNode 1 or flat",
                  first, rank)
        .atRank(rank);
  }
}

namespace {

void checkDesc(const fusco_nccl_plan_desc &desc, const Neighbors &neighbors) {
  const uint32_t ranks = neighbors.ranks;
  if (desc.first_instance == nullptr || desc.first_instance[0] != 0 ||
      desc.first_instance[ranks] > FUSCO_MAX_INSTANCES ||
      !std::is_sorted(desc.first_instance, desc.first_instance + ranks + 1)) {
    throw Failure(FUSCO_E_OPTION, "first_instance does not ascend from 0 to at most %d", FUSCO_MAX_INSTANCES);
  }
  if (desc.slice_rows < 1 || desc.slice_rows > FUSCO_MAX_ROWS) {
    throw Failure(FUSCO_E_OPTION, "slices of %u rows; they must have 1 to %d", desc.slice_rows,
                  FUSCO_MAX_ROWS)
        .limited(desc.slice_rows, FUSCO_MAX_ROWS);
  }
  checkRanksPerNode(desc.ranks_per_node, ranks);
  if (desc.strategy != FUSCO_STRATEGY_HIER) return;
  if (desc.rail_groups == nullptr) throw Failure(FUSCO_E_OPTION, "a hierarchical plan needs its rail groups");
  checkNodesOnMachines(desc.ranks_per_node, neighbors);
}

// The owner of each instance.
std::vector<uint32_t> ownersOf(const fusco_nccl_plan_desc &desc, uint32_t ranks) {
  std::vector<uint32_t> owner(desc.first_instance[ranks]);
  for (uint32_t rank = 0; rank < ranks; rank++) {
    std::fill(owner.begin() + desc.first_instance[rank], owner.begin() + desc.first_instance[rank + 1], rank);
  }
  return owner;
}

// A slot that gets no row, or one of which its rank has told.
constexpr uint8_t noSource = 0xff;
static_assert(maxNeighbors < noSource);

}  // namespace

RankTables::RankTables(const fusco_plan &planSizes, const Neighbors &neighbors)
    : sizes(planSizes),
      entrySend(neighbors.ranks),
      entryReceive(neighbors.ranks),
      rowSend(neighbors.ranks),
      rowReceive(neighbors.ranks),
      neighbors_(neighbors) {}

RankTables::RankTables(const fusco_nccl_plan_desc &desc, const Neighbors &neighbors, uint32_t maxRecvRows)
    : entrySend(neighbors.ranks),
      entryReceive(neighbors.ranks),
      rowSend(neighbors.ranks),
      rowReceive(neighbors.ranks),
      neighbors_(neighbors),
      maxRecvRows_(maxRecvRows) {
  checkDesc(desc, neighbors);
  const uint32_t rank = neighbors.rank;
  const CheckedShard shard(desc.shard, rank, neighbors.ranks);
  const uint32_t firstInstance = desc.first_instance[rank];
  if (shard.word(FUSCO_W_INSTANCES) != desc.first_instance[neighbors.ranks] ||
      shard.word(FUSCO_W_FIRST_INSTANCE) != firstInstance ||
      shard.word(FUSCO_W_LOCAL_INSTANCES) != desc.first_instance[rank + 1] - firstInstance) {
    throw Failure(FUSCO_E_SHARD_HEAD, "the shard of rank %u has other instances than its placement", rank)
        .atRank(rank);
  }
  sizes.ranks = 1;
  sizes.firstRank = rank;
  sizes.ranksPerNode = desc.ranks_per_node;
  sizes.topk = shard.word(FUSCO_W_TOPK);
  sizes.isHierarchical = desc.strategy == FUSCO_STRATEGY_HIER;
  sizes.tree = treeOf(desc.strategy, desc.partial, desc.sum);
  forwards = sizes.isHierarchical && desc.ranks_per_node < neighbors.ranks && !isOnePass();
  sizes.rank.resize(1);
  reach.assign(neighbors.count(), 0);
  const auto receiveRuns = shard.receiveRuns(shard.readBlocks(firstInstance, sizes.rank[0]));
  if (isOnePass()) sourceOfSlot.assign(sizes.rank[0].recvRows + 1, noSource);
  for (size_t run = 0; run < receiveRuns.size(); run++) {
    const auto source = static_cast<uint32_t>(run % neighbors.ranks);
    if (isOnePass()) {
      const auto first = sourceOfSlot.begin() + receiveRuns[run].first;
      std::fill(first, first + receiveRuns[run].rows, static_cast<uint8_t>(source));
    }
    if (!isDirect(source)) entryReceive.append(source, belowBound(receiveRuns[run]));
  }
  layOutEntries(shard, desc);
  entrySend.close();
  entryReceive.close();
  std::vector<uint32_t> partialRow;
  if (forwards) partialRow = layOutForwarding(shard, desc);
  rowSend.close();
  rowReceive.close();
  boundReceive();
  if (!isOnePass()) listSums(partialRow);
  sizes.rank[0].places = {};
}

Run RankTables::belowBound(const RowRange &run) const {
  return {run.first, run.first >= maxRecvRows_ ? 0 : std::min(run.rows, maxRecvRows_ - run.first)};
}

void RankTables::boundReceive() {
  RankPlan &part = sizes.rank[0];
  part.recvRows = std::min(part.recvRows, maxRecvRows_);
  for (RowRange &range : part.padding) range.rows = belowBound(range).rows;
  const auto isEmpty = [](const RowRange &range) { return range.rows == 0; };
  part.padding.erase(std::remove_if(part.padding.begin(), part.padding.end(), isEmpty), part.padding.end());
}

void RankTables::layOutEntries(const CheckedShard &shard, const fusco_nccl_plan_desc &desc) {
  RankPlan &part = sizes.rank[0];
  const uint32_t rank = neighbors_.rank;
  const uint64_t entries = shard.entries();
  const std::vector<uint32_t> owner = ownersOf(desc, neighbors_.ranks);
  SendRuns runs = shard.sendRuns();
  std::vector<uint64_t> sendFirst(owner.size(), 0);
  // Of the owner of each instance whose rows go straight into its memory.
  std::vector<uint32_t> directNeighbor(owner.size(), landingPeer);
  uint64_t sentRows = 0;
  for (uint32_t i = 0; i < owner.size(); i++) {
    sendFirst[i] = sentRows;
    if (isDirect(owner[i])) {
      directNeighbor[i] = static_cast<uint32_t>(neighbors_.indexOf[owner[i]]);
      continue;
    }
    const uint32_t rows = belowBound(runs.of(i)).rows;
    entrySend.append(owner[i], {sentRows, rows});
    sentRows += rows;
  }
  if (sentRows > entries) {
    throw Failure(FUSCO_E_SHARD_HEAD, "rank %u sends %llu rows of %llu entries", rank, sentRows, entries)
        .atRank(rank);
  }
  direct.assign(entries, {0, -1});
  if (!isOnePass()) returned.assign(entries, {0, -1});
  entryOrder.assign(sentRows, 0);
  uint32_t beyondBound = 0;
  shard.readEntries(part, [&](size_t number, uint32_t instance, uint32_t slot) {
    const uint32_t inRun = runs.next(rank, number, instance, slot);
    const uint32_t neighbor = directNeighbor[instance];
    if (slot >= maxRecvRows_) {
      beyondBound++;
    } else if (neighbor != landingPeer) {
      direct[number] = {neighbor, static_cast<int32_t>(slot)};
      if (!isOnePass()) returned[number] = direct[number];
      reach[neighbor] = std::max(reach[neighbor], slot + 1);
    } else {
      const uint64_t at = sendFirst[instance] + inRun;
      entryOrder[at] = static_cast<uint32_t>(number);
      returned[number] = {landingPeer, static_cast<int32_t>(at)};
    }
    return owner[instance];
  });
  runs.checkAllSent(rank);
  if (reach[neighbors_.self] > part.recvRows) {
    throw Failure(FUSCO_E_SEGMENT_BOUNDS, "rank %u writes its own row %u of %u", rank,
                  reach[neighbors_.self] - 1, part.recvRows)
        .atRank(rank);
  }
  part.kept -= beyondBound;
  sizes.kept = part.kept;
  sizes.tokens = part.tokens;
}

std::vector<uint32_t> RankTables::layOutForwarding(const CheckedShard &shard,
                                                   const fusco_nccl_plan_desc &desc) {
  const uint32_t rank = neighbors_.rank;
  const std::vector<Place> &places = sizes.rank[0].places;
  ForwardedRows rows = shard.forwardedRows(desc.ranks_per_node, places);
  const size_t nodes = rows.rowsOfNode.size();
  std::vector<uint32_t> partialRow(uint64_t{sizes.tokens} * nodes, UINT32_MAX);
  uint32_t row = 0;
  for (uint32_t node = 0; node < nodes; node++) {
    const uint32_t count = rows.rowsOfNode[node];
    if (count == 0) continue;
    rowSend.append(forwarderOf(desc.rail_groups, desc.ranks_per_node, rank, node), {row, count});
    for (const uint32_t end = row + count; row < end; row++) {
      partialRow[uint64_t{rows.token[row]} * nodes + node] = row;
      // A row travels also if the bound leaves it no place: lengths of messages follow from the facts alone.
      rowEntries.push_back(0);
      for (uint32_t at = rows.offset[row]; at < rows.offset[row + 1]; at++) {
        const uint32_t entry = rows.entry[at];
        if (static_cast<uint32_t>(places[entry].row) >= maxRecvRows_) continue;
        rowEntries.back()++;
        placeEntry.push_back(entry);
        placeOf.push_back(places[entry]);
      }
    }
  }
  rowOrder = std::move(rows.token);
  const std::vector<uint32_t> landingRows = shard.landingRows();
  uint64_t landed = 0;
  for (uint32_t source = 0; source < neighbors_.ranks; source++) {
    if (isDirect(source)) continue;
    rowReceive.append(source, {landed, landingRows[source]});
    landed += landingRows[source];
  }
  if (landed > FUSCO_MAX_ROWS) {
    throw Failure(FUSCO_E_LIMIT, "rank %u forwards %llu rows; the limit is %d", rank, landed, FUSCO_MAX_ROWS)
        .atRank(rank)
        .limited(landed, FUSCO_MAX_ROWS);
  }
  return partialRow;
}

// In ascending k; along a tree node by node, where another node sends one finished partial sum. `partialRow`
// [tokens, nodes] says in which row of rowOrder.
void RankTables::listSums(const std::vector<uint32_t> &partialRow) {
  const uint32_t topk = sizes.topk;
  const bool tree = sizes.tree != Tree::none;
  const uint32_t nodes = neighbors_.ranks / sizes.ranksPerNode;
  const std::vector<Place> &places = sizes.rank[0].places;
  std::vector<uint32_t> order;
  for (uint32_t token = 0; token < sizes.rank[0].tokens; token++) {
    order.clear();
    for (uint32_t k = 0; k < topk; k++) {
      if (returned[token * uint64_t{topk} + k].row >= 0) order.push_back(token * topk + k);
    }
    const auto nodeOf = [&](uint32_t entry) { return places[entry].peer / sizes.ranksPerNode; };
    if (tree) {
      std::stable_sort(order.begin(), order.end(),
                       [&](uint32_t a, uint32_t b) { return nodeOf(a) < nodeOf(b); });
    }
    for (size_t i = 0; i < order.size(); i++) {
      const Place place = returned[order[i]];
      const bool closes = tree && (i + 1 == order.size() || nodeOf(order[i + 1]) != nodeOf(order[i]));
      if (tree && place.peer == landingPeer) {
        const uint32_t row = partialRow[uint64_t{token} * nodes + nodeOf(order[i])];
        if (closes) sums.terms.push_back({landingPeer, row, 0, closesNode | isPartial});
        continue;
      }
      sums.terms.push_back({place.peer, static_cast<uint32_t>(place.row), order[i], closes ? closesNode : 0});
    }
    sums.close();
  }
}

void RankTables::checkDestinations(const std::vector<uint32_t> &counts) const {
  const uint32_t least = maxRecvRows_ < FUSCO_MAX_ROWS ? 0 : 1;
  for (uint32_t source = 0, row = 0; source < neighbors_.ranks; source++) {
    for (const uint64_t end = rowReceive.start(source + 1); row < end; row++) {
      const uint32_t count = counts[row];
      if (count >= least && count <= sizes.topk) continue;
      throw Failure(FUSCO_E_PEER_MISMATCH,
                    "row %u that rank %u forwards has %u destinations; it must have %u to %u", row, source,
                    count, least, sizes.topk)
          .atRank(source)
          .limited(count, sizes.topk);
    }
  }
}

Landing RankTables::readLanding(const std::vector<uint32_t> &counts, const std::vector<Place> &places) {
  checkDestinations(counts);
  const uint32_t firstRank = neighbors_.rank / sizes.ranksPerNode * sizes.ranksPerNode;
  Landing landing;
  landing.places.reserve(places.size());
  uint64_t next = 0;
  for (uint32_t source = 0, row = 0; source < neighbors_.ranks; source++) {
    for (const uint64_t end = rowReceive.start(source + 1); row < end; row++) {
      const uint32_t count = counts[row];
      if (count > places.size() - next) {
        throw Failure(FUSCO_E_PEER_MISMATCH, "row %u that rank %u forwards has %u destinations, %llu came",
                      row, source, count, places.size() - next)
            .atRank(source)
            .limited(count, places.size() - next);
      }
      for (uint32_t p = 0; p < count; p++, next++) {
        const Place place = places[next];
        if (place.peer < firstRank || place.peer - firstRank >= sizes.ranksPerNode || place.row < 0) {
          throw Failure(
              FUSCO_E_PEER_MISMATCH,
              "row %u that rank %u forwards goes to row %d of rank %u; ranks %u to %u are of this node", row,
              source, place.row, place.peer, firstRank, firstRank + sizes.ranksPerNode - 1)
              .atRank(source);
        }
        const auto neighbor = static_cast<uint32_t>(neighbors_.indexOf[place.peer]);
        reach[neighbor] = std::max(reach[neighbor], static_cast<uint32_t>(place.row) + 1);
        landing.places.push_back({neighbor, place.row});
      }
      landing.offset.push_back(static_cast<uint32_t>(next));
    }
  }
  return landing;
}

void RankTables::checkArrival(uint32_t source, const uint32_t *slots, const uint32_t *landingRow,
                              uint32_t tokens, uint32_t landingRows) {
  const auto refuse = [&](uint32_t token, const char *what, uint32_t value) {
    return Failure(FUSCO_E_PEER_MISMATCH, "token %u of rank %u, as it told rank %u: %s %u", token, source,
                   neighbors_.rank, what, value)
        .atRank(source);
  };
  const auto slotCount = static_cast<uint32_t>(sourceOfSlot.size() - 1);
  for (uint32_t token = 0; token < tokens; token++) {
    const uint32_t *told = slots + uint64_t{token} * sizes.topk;
    // Without branches on which entries have a slot here, which nothing predicts.
    uint32_t lowest = noSlot, landing = noSlot, landings = 0, wrong = noSlot;
    for (uint32_t k = 0; k < sizes.topk; k++) {
      const bool isTold = told[k] != noSlot;
      const uint32_t slot = chosen(isTold, told[k] & ~isLanding, noSlot);
      uint8_t &from = sourceOfSlot[std::min(slot, slotCount)];
      wrong = chosen(isTold & (from != source), slot, wrong);
      from = noSource;
      lowest = std::min(lowest, slot);
      const bool isMarked = isTold & ((told[k] & isLanding) != 0);
      landing = chosen(isMarked, slot, landing);
      landings += isMarked ? 1 : 0;
    }
    if (wrong != noSlot) throw refuse(token, "it has no row at slot", wrong);
    if (landing != lowest || landings > 1) {
      throw refuse(token, "it lands elsewhere than in its lowest slot,", lowest);
    }
    if (lowest != noSlot && landingRow[token] >= landingRows) {
      throw refuse(token, "its partial sum has landing row", landingRow[token]);
    }
  }
}

void RankTables::checkAllTold() const {
  for (size_t slot = 0; slot < sourceOfSlot.size(); slot++) {
    const uint32_t source = sourceOfSlot[slot];
    if (source == noSource || source == neighbors_.rank) continue;
    throw Failure(FUSCO_E_PEER_MISMATCH, "rank %u sends no row to slot %llu of rank %u, its plan says",
                  source, slot, neighbors_.rank)
        .atRank(source);
  }
}

}  // namespace fusco::nccl
