// The clock of statistics: nanoseconds of the steady clock.
#pragma once

#include <chrono>
#include <cstdint>

namespace fusco {

inline uint64_t steadyNs() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

}  // namespace fusco
