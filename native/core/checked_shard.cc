#include "checked_shard.hpp"

#include <algorithm>

namespace fusco {

Failure badEntry(fusco_status status, const char *what, const Entry &entry) {
  return Failure(status, "entry %llu of rank %u, instance %u slot %d, %s", entry.number, entry.rank,
                 entry.instance, static_cast<int32_t>(entry.slot), what)
      .atRank(entry.rank)
      .at("/ranks/%u/entries/%llu", entry.rank, entry.number);
}

void SendRuns::checkAllSent(uint32_t rank) const {
  for (size_t instance = 0; instance < runs_.size(); instance++) {
    if (sent_[instance] == runs_[instance].rows) continue;
    throw Failure(FUSCO_E_SHARD_HEAD, "rank %u has %u entries for instance %llu, its run has %u rows", rank,
                  sent_[instance], instance, runs_[instance].rows)
        .atRank(rank);
  }
}

std::vector<RowRange> CheckedShard::readBlocks(uint64_t firstInstance, RankPlan &part) const {
  const auto offsets = section<uint32_t>(FUSCO_S_EXPERT_OFFSET);
  const auto rows = section<uint32_t>(FUSCO_S_EXPERT_ROWS);
  part.tokens = word(FUSCO_W_TOKENS);
  part.recvRows = word(FUSCO_W_RECV_ROWS);
  if (word(FUSCO_W_FIRST_INSTANCE) != firstInstance || offsets.front() != 0 ||
      offsets.back() != part.recvRows) {
    throw refused(FUSCO_E_SHARD_HEAD, "rank %u: first instance %u, blocks of rows %u to %u of %u", rank_,
                  word(FUSCO_W_FIRST_INSTANCE), offsets.front(), offsets.back(), part.recvRows)
        .at("/ranks/%u", rank_);
  }
  std::vector<RowRange> blocks;
  blocks.reserve(rows.size());
  for (size_t local = 0; local < rows.size(); local++) {
    const uint32_t begin = offsets[local];
    const uint32_t end = offsets[local + 1];
    if (begin > end || end > part.recvRows || rows[local] > end - begin) {
      throw refused(FUSCO_E_SEGMENT_BOUNDS, "rank %u block %llu: %u rows in %u to %u of %u", rank_, local,
                    rows[local], begin, end, part.recvRows)
          .limited(rows[local], end >= begin ? end - begin : 0)
          .at("/ranks/%u/blocks/%llu", rank_, local);
    }
    const uint32_t padding = end - begin - rows[local];
    blocks.push_back({begin, rows[local]});
    if (padding > 0) part.padding.push_back({begin + rows[local], padding});
  }
  return blocks;
}

void CheckedShard::countOther(const Entry &entry, EntryCounts &counts) const {
  const uint32_t instances = word(FUSCO_W_INSTANCES);
  const auto slot = static_cast<int32_t>(entry.slot);
  if (slot >= 0) throw badEntry(FUSCO_E_SEGMENT_BOUNDS, "names no instance", entry);
  const bool masked = slot == FUSCO_SLOT_MASKED;
  if (masked ? entry.instance != instances : (slot != FUSCO_SLOT_DROPPED || entry.instance >= instances)) {
    throw badEntry(FUSCO_E_ENTRY, "is not a slot, masked or dropped", entry);
  }
  (masked ? counts.masked : counts.dropped)++;
}

void CheckedShard::checkCounts(uint32_t kept, const EntryCounts &others) const {
  if (kept == word(FUSCO_W_KEPT) && others.masked == word(FUSCO_W_MASKED) &&
      others.dropped == word(FUSCO_W_DROPPED)) {
    return;
  }
  throw refused(FUSCO_E_SHARD_HEAD, "rank %u keeps %u, masks %u, drops %u; its head says otherwise", rank_,
                kept, others.masked, others.dropped);
}

std::vector<RowRange> CheckedShard::ranges(int firstSection, int rowsSection, uint64_t elements) const {
  const auto first = exactly<uint32_t>(firstSection, elements);
  const auto rows = exactly<uint32_t>(rowsSection, elements);
  std::vector<RowRange> result(elements);
  for (uint64_t i = 0; i < elements; i++) result[i] = {first[i], rows[i]};
  return result;
}

std::vector<RowRange> CheckedShard::receiveRuns(const std::vector<RowRange> &blocks) const {
  auto runs = ranges(FUSCO_S_RUN_ROW, FUSCO_S_RUN_ROWS, uint64_t{blocks.size()} * ranks_);
  for (size_t block = 0; block < blocks.size(); block++) {
    uint64_t next = blocks[block].first;
    for (size_t at = block * ranks_; at < (block + 1) * ranks_; at++) {
      if (runs[at].rows == 0) continue;
      if (runs[at].first != next) {
        throw refused(FUSCO_E_SEGMENT_BOUNDS, "run %llu of rank %u starts at row %u, not %llu", at, rank_,
                      runs[at].first, next)
            .at("/ranks/%u/runs/%llu", rank_, at);
      }
      next += runs[at].rows;
    }
    if (next != uint64_t{blocks[block].first} + blocks[block].rows) {
      throw refused(FUSCO_E_SEGMENT_BOUNDS, "the runs of block %llu of rank %u end at row %llu", block, rank_,
                    next);
    }
  }
  return runs;
}

SendRuns CheckedShard::sendRuns() const {
  auto runs = ranges(FUSCO_S_SEND_ROW, FUSCO_S_SEND_ROWS, word(FUSCO_W_INSTANCES));
  for (size_t i = 0; i < runs.size(); i++) {
    if (uint64_t{runs[i].first} + runs[i].rows <= FUSCO_MAX_ROWS) continue;
    throw refused(FUSCO_E_SEGMENT_BOUNDS, "run %llu of rank %u ends behind row %d", i, rank_, FUSCO_MAX_ROWS);
  }
  return SendRuns(std::move(runs));
}

Failure CheckedShard::badForward(const char *what, size_t row) const {
  return refused(FUSCO_E_SEGMENT_BOUNDS, "forwarded row %llu of rank %u %s", row, rank_, what)
      .at("/ranks/%u/forward/%llu", rank_, row);
}

ForwardedRows CheckedShard::forwardedRows(uint32_t ranksPerNode, const std::vector<Place> &places) const {
  const uint32_t own = rank_ / ranksPerNode;
  const uint32_t topk = word(FUSCO_W_TOPK);
  ForwardedRows forwarded;
  forwarded.rowsOfNode = exactly<uint32_t>(FUSCO_S_FORWARD_ROWS, ranks_ / ranksPerNode);
  forwarded.token = section<uint32_t>(FUSCO_S_FORWARD_TOKEN);
  forwarded.target = section<int32_t>(FUSCO_S_FORWARD_TARGET);
  forwarded.offset = section<uint32_t>(FUSCO_S_DISTRIBUTE_OFFSET);
  forwarded.entry = section<uint32_t>(FUSCO_S_DISTRIBUTE_ENTRY);
  const auto &[rowsOfNode, tokens, targets, offsets, entries] = forwarded;
  uint64_t rows = 0;
  for (const uint32_t count : rowsOfNode) rows += count;
  const auto isRemote = [&](const Place &place) {
    return place.row >= 0 && place.peer / ranksPerNode != own;
  };
  const auto remote = static_cast<size_t>(std::count_if(places.begin(), places.end(), isRemote));
  if (rows != tokens.size() || rows != targets.size() || offsets.size() != rows + 1 || offsets.front() != 0 ||
      offsets.back() != entries.size() || entries.size() != remote) {
    throw refused(FUSCO_E_SHARD_HEAD, "the forwarding sections of rank %u do not fit one another", rank_);
  }
  // Tokens of a node and entries of a row ascend, so that no entry comes twice; and there are as many as the
  // rank sends to other nodes: then each of those comes once.
  size_t row = 0;
  for (uint32_t node = 0; node < rowsOfNode.size(); node++) {
    int64_t lastToken = -1;
    for (const size_t end = row + rowsOfNode[node]; row < end; row++) {
      if (node == own) throw badForward("is for the rank's own node", row);
      if (offsets[row] >= offsets[row + 1] || offsets[row + 1] > entries.size()) {
        throw badForward("has no entries", row);
      }
      if (tokens[row] <= lastToken) throw badForward("is not in the order of tokens", row);
      lastToken = tokens[row];
      int64_t lastEntry = -1;
      for (uint32_t at = offsets[row]; at < offsets[row + 1]; at++) {
        const uint32_t entry = entries[at];
        if (entry >= places.size() || entry / topk != tokens[row] || entry <= lastEntry ||
            places[entry].row < 0 || places[entry].peer / ranksPerNode != node) {
          throw badForward("has an entry of another row", row);
        }
        lastEntry = entry;
      }
    }
  }
  return forwarded;
}

std::vector<uint8_t> CheckedShard::tileOrder() const {
  const uint64_t tileEntries = uint64_t{word(FUSCO_W_TILE_TOKENS)} * word(FUSCO_W_TOPK);
  if (tileEntries == 0) return {};
  auto order = section<uint8_t>(FUSCO_S_TILE_ORDER);
  if (tileEntries > maxTileEntries || order.size() != entries()) {
    throw refused(FUSCO_E_SHARD_HEAD, "rank %u orders %llu entries in tiles of %llu", rank_, order.size(),
                  tileEntries);
  }
  for (uint64_t first = 0; first < order.size(); first += tileEntries) {
    const uint64_t count = std::min(tileEntries, order.size() - first);
    bool seen[maxTileEntries] = {};
    for (uint64_t i = 0; i < count; i++) {
      const uint8_t at = order[first + i];
      if (at >= count || seen[at]) {
        throw refused(FUSCO_E_ENTRY, "the tile at entry %llu of rank %u is no permutation", first, rank_)
            .at("/ranks/%u/tileOrder/%llu", rank_, first + i);
      }
      seen[at] = true;
    }
  }
  return order;
}

void checkRanksPerNode(uint32_t ranksPerNode, uint32_t ranks) {
  if (ranksPerNode >= 1 && ranks % ranksPerNode == 0) return;
  throw Failure(FUSCO_E_RANKS, "%u ranks a node do not divide %u ranks", ranksPerNode, ranks)
      .limited(ranksPerNode, ranks);
}

Tree treeOf(fusco_strategy strategy, fusco_partial partial, fusco_sum sum) {
  // Callers in C may pass numbers that the enumerations do not have.
  if (static_cast<int>(strategy) == FUSCO_STRATEGY_FLAT) return Tree::none;
  if (static_cast<int>(strategy) != FUSCO_STRATEGY_HIER) {
    throw Failure(FUSCO_E_BACKEND, "there is no strategy %d", strategy);
  }
  const bool isKept = static_cast<int>(partial) == FUSCO_PARTIAL_F32;
  if (!isKept && static_cast<int>(partial) != FUSCO_PARTIAL_PAYLOAD) {
    throw Failure(FUSCO_E_OPTION, "there are no partial sums of kind %d", partial);
  }
  if (static_cast<int>(sum) == FUSCO_SUM_TOKEN) return Tree::none;
  if (static_cast<int>(sum) == FUSCO_SUM_NODE) return isKept ? Tree::kept : Tree::rounded;
  throw Failure(FUSCO_E_OPTION, "there is no order of sums %d", sum);
}

uint32_t forwarderOf(const uint16_t *groups, uint32_t ranksPerNode, uint32_t rank, uint32_t node) {
  for (uint32_t i = 0; i < ranksPerNode; i++) {
    const uint32_t candidate = node * ranksPerNode + i;
    if (groups[candidate] == groups[rank]) return candidate;
  }
  throw Failure(FUSCO_E_SHARD_HEAD, "node %u has no rank of rail group %u", node, groups[rank]).atRank(rank);
}

}  // namespace fusco
