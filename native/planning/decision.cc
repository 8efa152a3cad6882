#include "decision.hpp"

#include "balance.hpp"
#include "failure.hpp"

namespace fusco::planning {

const uint32_t *rowsPerNode(const Spec &spec, const Facts &facts) {
  return spec.ranksPerNode == 1 && facts.rankRows != nullptr ? facts.rankRows : facts.nodeRows;
}

Decision decide(const Spec &spec, const Facts &facts) {
  Decision made;
  if (spec.isFlat()) return made;
  const uint32_t *nodeRows = rowsPerNode(spec, facts);
  if (nodeRows == nullptr) {
    throw Failure(FUSCO_E_FACTS, "this strategy needs each rank's rows per node");
  }
  std::vector<uint64_t> words(2 * spec.ranks);
  std::vector<uint16_t> orders(2 * spec.ranksPerNode);
  made.groups.resize(spec.ranks);
  const BalanceInput input{
      spec.ranks,   spec.ranksPerNode,         nodeRows,      facts.nodeStride,
      words.data(), words.data() + spec.ranks, orders.data(), orders.data() + spec.ranksPerNode};
  made.strategy = FUSCO_STRATEGY_HIER;
  made.rule = balanceGroups(input, spec.balance, made.groups.data());
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
