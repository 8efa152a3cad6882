// The plans among which AUTO chooses, as planner/decide.ts does: flat, once per rank and once per node.
#pragma once

#include "decision.hpp"

namespace fusco::planning {

// The settled specs that AUTO compares; empty for other strategies. Of candidates with equally busy ranks the
// first is chosen: it has fewer hops.
std::vector<Spec> candidatesOf(const Spec &spec);

struct Choice {
  const Spec *spec;  // one of the candidates
  Decision decision;
};

// The candidate whose busiest rank is the least busy. `spec` is the one that the candidates are of, and
// consecutive `ranksPerHost` ranks share a machine, whose links are NVLink. Throws E_FACTS.
Choice chooseLeastBusy(const Spec &spec, uint32_t ranksPerHost, const std::vector<Spec> &candidates,
                       const Facts &facts);

}  // namespace fusco::planning
