// What one-pass launches keep between calls, and what devices tell one another.
#pragma once

#include <cstdint>

#include "device_tables.hpp"
#include "token_places.hpp"

namespace fusco::cuda {

// State of one device's launches: counters are zero between launches.
struct LaunchControl {
  uint32_t epoch;    // of the last completed launch
  uint32_t arrived;  // blocks that have started
  uint32_t done;     // blocks that have ended
  uint32_t ticket[2];
  uint32_t failed;  // nonzero after a failure: no later launch moves anything
};

// What a device tells another when it is ready for a call.
struct ReadyMessage {
  uint64_t digest;                   // of the call; must be the same on all devices
  uint64_t address[maxPeerBuffers];  // of its buffers, as the device that reads the message addresses them
};

// Memory of one device that the others write. Two sets of messages alternate between calls: no device is
// ever more than one call ahead of another.
struct Inbox {
  uint32_t poison;              // a failure found elsewhere: code << 16 | the device that tells it; 0: none
  uint32_t ready[maxRanks];     // [devices]: epoch of the last call that the device is ready for
  uint32_t done[maxRanks];      // [devices]: epoch of the last call after which it reads nothing more here
  RankBits culprits[maxRanks];  // [devices]: of the failure that the device tells
  ReadyMessage message[2][maxRanks];  // [epoch % 2][devices]
};

// Codes of failures.
enum FailureCode : uint32_t { failureNone = 0, failureTimeout = 1, failureMismatch = 2, failureAborted = 3 };

// What a failed wait reports; host memory that the device can write. The device stores `code` last.
struct WaitFailure {
  uint32_t code;
  uint32_t epoch;
  RankBits culprits;  // the late devices, or the device with another call; none if the host ended the waits
  uint64_t digest;    // of this device's call
};

#ifndef __CUDA_ARCH__
// On the host: the code of a failure. The rest may be read after it.
inline uint32_t codeOf(const WaitFailure &failure) {
  return __atomic_load_n(&failure.code, __ATOMIC_ACQUIRE);
}
#endif

// The signals of one device, in its memory; zero at first.
struct DeviceSignals {
  LaunchControl control;
  alignas(256) Inbox inbox;
};

}  // namespace fusco::cuda
