#include "decision.hpp"

#include <algorithm>

#include "balance.hpp"
#include "failure.hpp"
#include "run_passes.hpp"

namespace fusco::planning {

namespace {

// Effective rates of the cost model in GB/s, per rank and direction, as in planner/decide.ts.
constexpr uint64_t nvlinkRate = 370;
constexpr uint64_t nicRate = 43;

// Rows of the busiest rank on its NIC and on its NVLink, per direction the larger one.
struct BusiestRank {
  uint64_t interRows = 0;
  uint64_t intraRows = 0;
  uint64_t cost = 0;
};

// Rows that each rank sends to and receives from other ranks over one kind of link.
class LinkTotals {
 public:
  explicit LinkTotals(uint32_t ranks) : out_(ranks), in_(ranks) {}
  void add(uint32_t from, uint32_t to, uint64_t rows) {
    if (from == to) return;
    out_[from] += rows;
    in_[to] += rows;
  }
  uint64_t rows(uint32_t rank) const { return std::max(out_[rank], in_[rank]); }

 private:
  std::vector<uint64_t> out_, in_;
};

// Kept rows from every rank to every rank, [ranks, ranks].
std::vector<uint64_t> pairRows(const Spec &spec, const Facts &facts) {
  std::vector<uint64_t> rows(uint64_t{spec.ranks} * spec.ranks);
  for (uint32_t i = 0; i < spec.placement.instances; i++) {
    uint32_t before = 0;
    for (uint32_t from = 0; from < spec.ranks; from++) {
      const uint32_t count = facts.counts[from * facts.stride + i];
      rows[uint64_t{from} * spec.ranks + spec.placement.instanceRank[i]] +=
          keptRows(before, count, spec.capacity);
      before = saturatedSum(before, count);
    }
  }
  return rows;
}

// `groups` null: a flat plan.
BusiestRank busiestRank(const Spec &spec, const Facts &facts, const std::vector<uint64_t> &rows,
                        const std::vector<uint16_t> *groups) {
  LinkTotals inter(spec.ranks), intra(spec.ranks);
  for (uint32_t from = 0; from < spec.ranks; from++) {
    const uint32_t local = spec.nodeOf(from);
    std::vector<uint32_t> forwarders;
    if (groups != nullptr) forwarders = forwardersOf(spec, *groups, from);
    for (uint32_t to = 0; to < spec.ranks; to++) {
      const uint64_t count = rows[uint64_t{from} * spec.ranks + to];
      const uint32_t node = spec.nodeOf(to);
      if (node == local) {
        intra.add(from, to, count);
      } else if (groups == nullptr) {
        inter.add(from, to, count);
      } else {
        intra.add(forwarders[node], to, count);
      }
    }
    for (uint32_t node = 0; node < forwarders.size(); node++) {
      if (node != local) inter.add(from, forwarders[node], facts.nodeRows[from * facts.nodeStride + node]);
    }
  }
  BusiestRank worst;
  for (uint32_t rank = 0; rank < spec.ranks; rank++) {
    const uint64_t cost = std::max(inter.rows(rank) * nvlinkRate, intra.rows(rank) * nicRate);
    if (rank == 0 || cost > worst.cost) worst = {inter.rows(rank), intra.rows(rank), cost};
  }
  return worst;
}

std::string rowsText(const char *name, const BusiestRank &busiest) {
  return std::string(name) + ' ' + std::to_string(busiest.interRows) + " rows between nodes and " +
         std::to_string(busiest.intraRows) + " inside";
}

}  // namespace

Decision decide(const Spec &spec, const Facts &facts) {
  Decision made;
  if (spec.isFlat()) return made;
  if (facts.nodeRows == nullptr) {
    throw Failure(FUSCO_E_FACTS, "this strategy needs each rank's rows per node");
  }
  std::vector<uint64_t> words(2 * spec.ranks);
  std::vector<uint16_t> orders(2 * spec.ranksPerNode);
  made.groups.resize(spec.ranks);
  const BalanceInput input{
      spec.ranks,   spec.ranksPerNode,         facts.nodeRows, facts.nodeStride,
      words.data(), words.data() + spec.ranks, orders.data(),  orders.data() + spec.ranksPerNode};
  made.strategy = FUSCO_STRATEGY_HIER;
  made.rule = balanceGroups(input, spec.balance, made.groups.data());
  if (spec.strategy == FUSCO_STRATEGY_HIER) return made;
  const std::vector<uint64_t> rows = pairRows(spec, facts);
  const BusiestRank flat = busiestRank(spec, facts, rows, nullptr);
  const BusiestRank hier = busiestRank(spec, facts, rows, &made.groups);
  std::string reason = "busiest rank: " + rowsText("flat", flat) + ", " + rowsText("hier", hier);
  if (hier.cost >= flat.cost) made = {};
  made.reason = std::move(reason);
  return made;
}

std::vector<uint32_t> forwardersOf(const Spec &spec, const std::vector<uint16_t> &groups, uint32_t rank) {
  std::vector<uint32_t> forwarders(spec.nodes);
  for (uint32_t member = 0; member < spec.ranks; member++) {
    if (groups[member] == groups[rank]) forwarders[spec.nodeOf(member)] = member;
  }
  return forwarders;
}

}  // namespace fusco::planning
