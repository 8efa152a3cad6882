// What kernels need that signal to other devices.
#pragma once

#include "one_pass_plan.hpp"
#include "signals.hpp"

namespace fusco::cuda {

// What all one-pass launches have in common.
struct OnePassCommon {
  OnePassTables plan;
  LaunchControl *control;
  WaitFailure *failure;  // host memory
  uint64_t deadlineNs;
  uint64_t digest;  // of the call, where processes compare it
  uint32_t device;  // index of this device
  uint32_t devices;
  uint32_t chunkTokens;       // the same on all devices; chunkTokens * topk <= maxChunkEntries
  uint32_t hasProcesses;      // every device belongs to another process: ready messages are sent
  Inbox *inbox[maxRanks];     // by device
  uint32_t *flags[maxRanks];  // by rank: flags of chunks that arrive there
};

// Buffers of this device as each other device addresses them: told in ready messages.
struct ToldAddresses {
  uint64_t of[maxRanks][maxPeerBuffers];
};

}  // namespace fusco::cuda
