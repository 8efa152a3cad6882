#include "forward_tables.hpp"

#include "failure.hpp"
#include "shard.hpp"

namespace fusco::cuda {

namespace {

class ForwardReader {
 public:
  ForwardReader(const fusco_plan &plan, const fusco_cuda_plan_desc &desc) : plan_(plan), desc_(desc) {
    nodes_ = plan.ranks / plan.ranksPerNode;
    tables_.stagedPlace.resize(plan.ranks);
    tables_.landed.resize(plan.ranks);
    tables_.places.resize(plan.ranks);
    tables_.stageRows.assign(plan.ranks, 0);
    staged_.resize(plan.ranks);
  }

  ForwardTables read() {
    for (uint32_t rank = 0; rank < plan_.ranks; rank++) {
      readers_.emplace_back(desc_.plan.shards[rank], rank, plan_.ranks);
      if (readers_[rank].word(FUSCO_W_STAGE_ROWS) > FUSCO_MAX_ROWS) refuse(rank, "stages too many rows", 0);
    }
    for (uint32_t rank = 0; rank < plan_.ranks; rank++) readRank(rank);
    return std::move(tables_);
  }

 private:
  [[noreturn]] static void refuse(uint32_t rank, const char *what, size_t at) {
    throw Failure(FUSCO_E_SEGMENT_BOUNDS, "forwarded row %zu of rank %u %s", at, rank, what)
        .atRank(rank)
        .at("/ranks/%u/forward/%zu", rank, at);
  }

  uint32_t forwarderOf(uint32_t rank, uint32_t node) const {
    for (uint32_t i = 0; i < plan_.ranksPerNode; i++) {
      const uint32_t candidate = node * plan_.ranksPerNode + i;
      if (desc_.groups[candidate] == desc_.groups[rank]) return candidate;
    }
    throw Failure(FUSCO_E_SHARD_HEAD, "node %u has no rank of group %u", node, desc_.groups[rank])
        .atRank(rank);
  }

  void readRank(uint32_t rank) {
    const ShardReader &reader = readers_[rank];
    const auto nodeRows = reader.section<uint32_t>(FUSCO_S_FORWARD_ROWS);
    const auto tokens = reader.section<uint32_t>(FUSCO_S_FORWARD_TOKEN);
    const auto targets = reader.section<int32_t>(FUSCO_S_FORWARD_TARGET);
    const auto offsets = reader.section<uint32_t>(FUSCO_S_DISTRIBUTE_OFFSET);
    const auto entries = reader.section<uint32_t>(FUSCO_S_DISTRIBUTE_ENTRY);
    const uint32_t own = rank / plan_.ranksPerNode;
    std::vector<Place> &staged = tables_.stagedPlace[rank];
    uint64_t remote = 0;
    for (const Target &target : plan_.rank[rank].targets) {
      const bool isRemote = target.row >= 0 && target.peer / plan_.ranksPerNode != own;
      remote += isRemote ? 1 : 0;
      staged.push_back({target.peer, isRemote ? FUSCO_SLOT_MASKED : target.row});
    }
    size_t rows = 0;
    for (const uint32_t count : nodeRows) rows += count;
    if (nodeRows.size() != nodes_ || rows != tokens.size() || rows != targets.size() ||
        offsets.size() != rows + 1 || offsets[0] != 0 || offsets[rows] != entries.size() ||
        entries.size() != remote) {
      throw Failure(FUSCO_E_SHARD_HEAD, "the forwarding sections of rank %u do not fit one another", rank)
          .atRank(rank);
    }
    std::vector<bool> met(plan_.rank[rank].targets.size(), false);
    size_t row = 0;
    for (uint32_t node = 0; node < nodes_; node++) {
      const uint32_t forwarder = forwarderOf(rank, node);
      for (uint32_t i = 0; i < nodeRows[node]; i++, row++) {
        if (offsets[row] >= offsets[row + 1] || offsets[row + 1] > entries.size())
          refuse(rank, "goes nowhere", row);
        const Place at = landingOf(rank, forwarder, targets[row], row);
        Landed landed = {at, static_cast<uint32_t>(tables_.places[forwarder].size()), 0};
        bool lands = targets[row] < 0;
        for (uint32_t e = offsets[row]; e < offsets[row + 1]; e++) {
          const uint32_t entry = entries[e];
          if (entry >= met.size() || entry / plan_.topk != tokens[row] || met[entry]) {
            refuse(rank, "has an entry of another", row);
          }
          met[entry] = true;
          const Target &target = plan_.rank[rank].targets[entry];
          if (target.row < 0 || target.peer / plan_.ranksPerNode != node)
            refuse(rank, "leaves its node", row);
          if (target.peer == at.peer && target.row == at.row) {
            lands = true;
          } else {
            tables_.places[forwarder].push_back({target.peer, target.row});
            landed.places++;
          }
        }
        if (!lands) refuse(rank, "lands in a slot of another", row);
        staged[entries[offsets[row]]] = at;
        if (landed.places > 0) tables_.landed[forwarder].push_back(landed);
      }
    }
  }

  // A slot of the forwarder, or a staging row that no other row uses.
  Place landingOf(uint32_t rank, uint32_t forwarder, int32_t target, size_t row) {
    if (target >= 0) return {forwarder, target};
    const int32_t stage = ~target;
    const uint32_t rows = readers_[forwarder].word(FUSCO_W_STAGE_ROWS);
    if (static_cast<uint32_t>(stage) >= rows) refuse(rank, "leaves the staging rows", row);
    std::vector<bool> &used = staged_[forwarder];
    if (used.empty()) used.assign(rows, false);
    if (used[stage]) refuse(rank, "lands in a staging row of another", row);
    used[stage] = true;
    tables_.stageRows[forwarder] = rows;
    return {maxRanks + forwarder, stage};
  }

  const fusco_plan &plan_;
  const fusco_cuda_plan_desc &desc_;
  uint32_t nodes_;
  std::vector<ShardReader> readers_;
  std::vector<std::vector<bool>> staged_;
  ForwardTables tables_;
};

}  // namespace

ForwardTables readForward(const fusco_plan &plan, const fusco_cuda_plan_desc &desc) {
  return ForwardReader(plan, desc).read();
}

}  // namespace fusco::cuda
