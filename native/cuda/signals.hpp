// What one-pass launches keep between calls.
#pragma once

#include <cstdint>

namespace fusco::cuda {

// State of one device's launches: counters are zero between launches.
struct LaunchControl {
  uint32_t epoch;    // of the last completed launch
  uint32_t arrived;  // blocks that have started
  uint32_t done;     // blocks that have ended
  uint32_t ticket[2];
  uint32_t pushed;  // weight pushes that are complete
  uint32_t failed;  // nonzero after a wait passed its deadline
};

// What a wait that passed its deadline reports; host memory that the device can write.
struct WaitFailure {
  uint32_t code;
  uint32_t epoch;
  uint32_t peer;  // the first peer whose flag was missing
};

}  // namespace fusco::cuda
