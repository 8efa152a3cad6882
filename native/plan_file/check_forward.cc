// Hierarchical plans: forwarded rows, their landing rows, and what the forwarder distributes.

#include <numeric>

#include "balance.hpp"
#include "checks.hpp"

namespace fusco::plan_file {

void checkForwardRows(const Plan &plan, uint32_t rank) {
  if (plan.spec.isFlat()) return;
  const auto rows = plan.shards[rank].section(FUSCO_S_FORWARD_ROWS);
  const uint32_t forwarded = plan.shards[rank].count(FUSCO_S_FORWARD_TOKEN);
  const uint64_t claimed = std::accumulate(rows.begin(), rows.end(), uint64_t{0});
  if (claimed != forwarded) {
    throw defect(FUSCO_E_FORWARD, rank, "/forward", "%u rows, the nodes hold %llu", forwarded, claimed);
  }
  const uint32_t local = plan.spec.nodeOf(rank);
  if (rows[local] == 0) return;
  throw defect(FUSCO_E_FORWARD, rank, place("forwardRows", local), "rows for its own node");
}

void checkGroups(const Plan &plan) {
  const Spec &spec = plan.spec;
  const planning::Facts facts{nullptr, 0, nullptr, 0, plan.nodeRows.data(), spec.nodes, {}};
  const Decision found = planning::decide(spec, facts);
  if (found.rule != plan.decision.rule) {
    throw Failure(FUSCO_E_FORWARD, "rule %s, not %s", planning::balanceName(plan.decision.rule),
                  planning::balanceName(found.rule))
        .at("/header/core/rule");
  }
  for (uint32_t rank = 0; rank < spec.ranks; rank++) {
    const uint32_t group = plan.decision.groups[rank];
    if (group == found.groups[rank]) continue;
    throw Failure(FUSCO_E_FORWARD, "rank %u is in group %u, not %u", rank, group,
                  uint32_t{found.groups[rank]})
        .atRank(rank)
        .at("/header/core/groups/%u", rank);
  }
}

void checkLanding(const Plan &plan, uint32_t rank) {
  const Spec &spec = plan.spec;
  const ShardView &shard = plan.shards[rank];
  std::vector<uint32_t> forwarder(spec.nodes), landingRow(spec.nodes), firstRow(spec.nodes);
  std::vector<uint32_t> sourceRow(spec.ranks), sourceRows(spec.ranks);
  planning::BalanceInput input{};
  input.ranks = spec.ranks;
  input.ranksPerNode = spec.ranksPerNode;
  input.nodeRows = plan.nodeRows.data();
  input.stride = spec.nodes;
  const uint64_t stageRows = planning::layLanding(
      input, plan.decision.groups.data(), rank,
      {forwarder.data(), landingRow.data(), firstRow.data(), sourceRow.data(), sourceRows.data()});
  if (stageRows > FUSCO_MAX_ROWS) {
    throw Failure(FUSCO_E_LIMIT, "rank %u forwards more than %d rows", rank, FUSCO_MAX_ROWS).atRank(rank);
  }
  const auto check = [&](const char *name, int section, const std::vector<uint32_t> &wanted) {
    const auto found = shard.section(section);
    for (size_t i = 0; i < wanted.size(); i++) {
      if (found[i] == wanted[i]) continue;
      throw defect(FUSCO_E_FORWARD, rank, place(name, i), "%u, not %u", found[i], wanted[i])
          .limited(found[i], wanted[i]);
    }
  };
  check("forwardRow", FUSCO_S_FORWARD_ROW, landingRow);
  check("stageRow", FUSCO_S_STAGE_ROW, sourceRow);
  check("stageRows", FUSCO_S_STAGE_ROWS, sourceRows);
  checkWord(rank, "stageRows", shard.word(FUSCO_W_STAGE_ROWS), stageRows);
}

namespace {

// Walks a rank's entries in the order (token, k) and expects each remote one to be the next entry of the next
// row of its node: so each row crosses once, carries its entries once, and lands where the forwarder looks
// for it.
class ForwardWalk {
 public:
  ForwardWalk(const Plan &plan, uint32_t rank)
      : spec_(plan.spec),
        rank_(rank),
        shard_(plan.shards[rank]),
        token_(shard_.section(FUSCO_S_FORWARD_TOKEN)),
        target_(shard_.section<int32_t>(FUSCO_S_FORWARD_TARGET)),
        offset_(shard_.section(FUSCO_S_DISTRIBUTE_OFFSET)),
        entry_(shard_.section(FUSCO_S_DISTRIBUTE_ENTRY)),
        forwarder_(planning::forwardersOf(spec_, plan.decision.groups, rank)),
        firstRow_(spec_.nodes + 1),
        lastToken_(spec_.nodes, UINT32_MAX),
        lastEntry_(spec_.nodes),
        landing_(token_.size(), noSlot) {
    const auto rows = shard_.section(FUSCO_S_FORWARD_ROWS);
    for (uint32_t node = 0; node < spec_.nodes; node++) firstRow_[node + 1] = firstRow_[node] + rows[node];
    nextRow_.assign(firstRow_.begin(), firstRow_.end() - 1);
  }

  void check() {
    const auto slots = shard_.section<int32_t>(FUSCO_S_ENTRY_SLOT);
    const auto instances = shard_.section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
    for (uint32_t entry = 0; entry < slots.size(); entry++) {
      if (slots[entry] < 0 || instances[entry] >= spec_.placement.instances) continue;
      visit(entry, instances[entry], slots[entry]);
    }
    checkRowEnds();
    checkTargets();
  }

 private:
  static constexpr int64_t noSlot = -1;

  void visit(uint32_t entry, uint32_t instance, int32_t slot) {
    const uint32_t node = spec_.placement.instanceNode[instance];
    if (node == spec_.nodeOf(rank_)) return;
    const uint32_t token = entry / spec_.topk;
    const bool isNew = lastToken_[node] != token;
    const uint64_t row = isNew ? nextRow_[node]++ : nextRow_[node] - 1;
    if (row >= firstRow_[node + 1] || token_[row] != token) {
      throw defect(FUSCO_E_FORWARD, rank_, place("forward", row), "not token %u for node %u", token, node);
    }
    const uint64_t at = isNew ? offset_[row] : lastEntry_[node] + 1;
    const uint64_t starts = row == 0 ? 0 : offset_[row];
    if (at < starts || at >= offset_[row + 1] || at >= entry_.size() || entry_[at] != entry) {
      throw defect(FUSCO_E_FORWARD, rank_, place("distribute", at), "not entry %u of row %llu", entry, row);
    }
    lastToken_[node] = token;
    lastEntry_[node] = at;
    const bool isAtForwarder = spec_.placement.instanceRank[instance] == forwarder_[node];
    if (isAtForwarder && (landing_[row] == noSlot || slot < landing_[row])) landing_[row] = slot;
  }

  // Every row of each node was reached, and the offsets cover the whole distribution list.
  void checkRowEnds() const {
    for (uint32_t node = 0; node < spec_.nodes; node++) {
      if (nextRow_[node] == firstRow_[node + 1]) continue;
      throw defect(FUSCO_E_FORWARD, rank_, place("forward", nextRow_[node]),
                   "a row for node %u that no token needs", node);
    }
    if (offset_[0] != 0 || offset_[token_.size()] != entry_.size()) {
      throw defect(FUSCO_E_FORWARD, rank_, "/distribute", "offsets cover %u of %llu entries",
                   offset_[token_.size()], uint64_t{entry_.size()});
    }
    // Each remote entry was found once inside its row, rows do not overlap, and the lists hold nothing else.
    checkWord(rank_, "direct and distributed entries",
              uint64_t{shard_.count(FUSCO_S_SEND_ENTRY)} + entry_.size(), shard_.word(FUSCO_W_KEPT));
  }

  void checkTargets() const {
    const auto forwardRow = shard_.section(FUSCO_S_FORWARD_ROW);
    uint32_t staged = 0;
    for (uint32_t node = 0; node < spec_.nodes; node++) {
      for (uint64_t row = firstRow_[node]; row < firstRow_[node + 1]; row++) {
        const auto landingRow = static_cast<uint32_t>(forwardRow[node] + row - firstRow_[node]);
        const int64_t wanted =
            landing_[row] != noSlot ? landing_[row] : int64_t{~static_cast<int32_t>(landingRow)};
        if (wanted < 0) staged++;
        if (target_[row] == wanted) continue;
        throw defect(FUSCO_E_FORWARD, rank_, place("forward", row), "lands at %d, not at %lld", target_[row],
                     static_cast<long long>(wanted));
      }
    }
    checkWord(rank_, "staged", shard_.word(FUSCO_W_STAGED), staged);
  }

  const Spec &spec_;
  uint32_t rank_;
  const ShardView &shard_;
  std::span<const uint32_t> token_;
  std::span<const int32_t> target_;
  std::span<const uint32_t> offset_;
  std::span<const uint32_t> entry_;
  std::vector<uint32_t> forwarder_;  // [nodes]
  std::vector<uint64_t> firstRow_;   // [nodes + 1]
  std::vector<uint64_t> nextRow_;    // [nodes]
  std::vector<uint32_t> lastToken_;  // [nodes]
  std::vector<uint64_t> lastEntry_;  // [nodes]
  std::vector<int64_t> landing_;     // [forwarded], lowest slot at the forwarder
};

}  // namespace

void checkForward(const Plan &plan, uint32_t rank) { ForwardWalk(plan, rank).check(); }

}  // namespace fusco::plan_file
