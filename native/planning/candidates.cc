#include "candidates.hpp"

#include <algorithm>

#include "run_passes.hpp"

namespace fusco::planning {

namespace {

// Effective rates of the cost model in GB/s, per rank and direction, as in planner/decide.ts.
constexpr uint64_t nvlinkRate = 370;
constexpr uint64_t nicRate = 43;

// Rows that each rank sends to and receives from other ranks over one kind of link.
class LinkTotals {
 public:
  explicit LinkTotals(uint32_t ranks) : out_(ranks), in_(ranks) {}
  void add(uint32_t from, uint32_t to, uint64_t rows) {
    if (from == to) return;
    out_[from] += rows;
    in_[to] += rows;
  }
  // The larger of the two directions.
  uint64_t rows(uint32_t rank) const { return std::max(out_[rank], in_[rank]); }

 private:
  std::vector<uint64_t> out_, in_;
};

// Rows of the busiest rank between machines and inside its machine, each in the busier direction.
struct BusiestRank {
  uint64_t interRows = 0;
  uint64_t intraRows = 0;
  uint64_t cost = 0;  // its time in units of row bytes / (nvlinkRate x nicRate)
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

// The busiest rank of a candidate. `pairs` as from pairRows.
BusiestRank busiestRank(const Spec &spec, uint32_t ranksPerHost, const std::vector<uint64_t> &pairs,
                        const Decision &decision, const Facts &facts) {
  LinkTotals inter(spec.ranks), intra(spec.ranks);
  const auto between = [&](uint32_t from, uint32_t to, uint64_t rows) {
    (from / ranksPerHost == to / ranksPerHost ? intra : inter).add(from, to, rows);
  };
  const uint32_t *nodeRows = rowsPerNode(spec, facts);
  for (uint32_t from = 0; from < spec.ranks; from++) {
    const uint64_t *rows = pairs.data() + uint64_t{from} * spec.ranks;
    if (decision.isFlat()) {
      for (uint32_t to = 0; to < spec.ranks; to++) between(from, to, rows[to]);
      continue;
    }
    const std::vector<uint32_t> forwarders = forwardersOf(spec, decision.groups, from);
    const uint32_t local = spec.nodeOf(from);
    for (uint32_t to = 0; to < spec.ranks; to++) {
      const uint32_t node = spec.nodeOf(to);
      intra.add(node == local ? from : forwarders[node], to, rows[to]);
    }
    for (uint32_t node = 0; node < spec.nodes; node++) {
      if (node != local) between(from, forwarders[node], nodeRows[from * facts.nodeStride + node]);
    }
  }
  BusiestRank worst;
  for (uint32_t rank = 0; rank < spec.ranks; rank++) {
    const uint64_t interRows = inter.rows(rank), intraRows = intra.rows(rank);
    const uint64_t cost = std::max(interRows * nvlinkRate, intraRows * nicRate);
    if (rank == 0 || cost > worst.cost) worst = {interRows, intraRows, cost};
  }
  return worst;
}

const char *nameOf(const Spec &candidate) {
  if (candidate.isFlat()) return "flat";
  return candidate.ranksPerNode == 1 ? "once per rank" : "once per node";
}

Spec withStrategy(const Spec &spec, fusco_strategy strategy) {
  Spec settled = spec;
  settled.strategy = strategy;
  return settled;
}

// The spec with one rank per node.
Spec oncePerRank(Spec spec) {
  spec.ranksPerNode = 1;
  spec.nodes = spec.ranks;
  spec.placement.instanceNode = spec.placement.instanceRank;
  return spec;
}

}  // namespace

std::vector<Spec> candidatesOf(const Spec &spec) {
  if (spec.strategy != FUSCO_STRATEGY_AUTO) return {};
  const Spec hier = withStrategy(spec, FUSCO_STRATEGY_HIER);
  std::vector<Spec> candidates{withStrategy(spec, FUSCO_STRATEGY_FLAT)};
  if (spec.considersOncePerRank()) candidates.push_back(oncePerRank(hier));
  candidates.push_back(hier);
  return candidates;
}

Choice chooseLeastBusy(const Spec &spec, uint32_t ranksPerHost, const std::vector<Spec> &candidates,
                       const Facts &facts) {
  const std::vector<uint64_t> pairs = pairRows(spec, facts);
  Choice best{};
  uint64_t leastCost = 0;
  std::string texts;
  for (const Spec &candidate : candidates) {
    Decision decision = decide(candidate, facts);
    const BusiestRank busiest = busiestRank(candidate, ranksPerHost, pairs, decision, facts);
    texts += texts.empty() ? "" : ", ";
    texts += std::string(nameOf(candidate)) + ' ' + std::to_string(busiest.interRows) +
             " rows between machines and " + std::to_string(busiest.intraRows) + " inside";
    if (best.spec != nullptr && busiest.cost >= leastCost) continue;
    best = {&candidate, std::move(decision)};
    leastCost = busiest.cost;
  }
  best.decision.reason = std::string(nameOf(*best.spec)) + " has the least busy rank: " + texts;
  if (spec.ranksPerNode > 1 && !spec.considersOncePerRank()) {
    best.decision.reason += "; once per rank is not compared, because experts have replicas";
  }
  return best;
}

}  // namespace fusco::planning
