// How wide an access may be; for the host and for kernels.
#pragma once

#include "plan_types.hpp"

namespace fusco::cuda {

// The widest unit that divides all addresses and sizes whose bits these are: the lowest set bit, at most 16.
FUSCO_ON_BOTH inline uint32_t unitOf(uint64_t bits) {
  const uint64_t low = bits & (~bits + 1);
  return low == 0 || low > 16 ? 16 : static_cast<uint32_t>(low);
}

}  // namespace fusco::cuda
