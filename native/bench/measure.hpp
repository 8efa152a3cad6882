#pragma once

#include "clock.hpp"

namespace fusco {

template <class F>
uint64_t nanosecondsOf(F work) {
  const uint64_t start = steadyNs();
  work();
  return steadyNs() - start;
}

// The fastest of `runs` runs: what the machine can do when nothing else disturbs it.
template <class F>
uint64_t fastestOf(uint32_t runs, F work) {
  uint64_t best = UINT64_MAX;
  for (uint32_t run = 0; run < runs; run++) {
    const uint64_t taken = nanosecondsOf(work);
    if (taken < best) best = taken;
  }
  return best;
}

}  // namespace fusco
