// Signals between kernels of different GPUs, and the waits for them.
//
// Memory ordering. A sender completes its stores, then stores a flag with `release` at system scope. A
// receiver loads the flag with `acquire` at system scope, then loads the rows. Bulk stores of the TMA unit
// are complete after bulkWait<0>() of the issuing thread. Bulk loads that follow an acquire need
// asyncProxyFence().
//
// Flags hold the epoch of the call and only grow, so they are never reset: a flag is set once the difference
// to the epoch, as a signed number, is not negative. The epoch is in device memory and the last block of a
// launch advances it; a captured launch therefore replays unchanged.
#pragma once

#include "flag_device.cuh"
#include "one_pass.hpp"

namespace fusco::cuda {

__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t value;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(value));
  return value;
}

__device__ __forceinline__ bool hasFailed(const OnePassCommon &c) {
  return *static_cast<volatile uint32_t *>(&c.control->failed) != 0;
}

// Records the first failure of this device, and tells the other devices, so that all name the same peer.
__device__ inline void fail(const OnePassCommon &c, FailureCode code, uint32_t epoch, uint32_t peer) {
  if (atomicExch(&c.control->failed, 1u) != 0) return;
  c.failure->epoch = epoch;
  c.failure->peer = peer;
  c.failure->digest = c.digest;
  __threadfence_system();
  *static_cast<volatile uint32_t *>(&c.failure->code) = code;
  for (uint32_t device = 0; device < c.devices; device++) {
    if (device == c.device) continue;
    // The first one to write stays, as far as that is possible without atomics over the link.
    volatile uint32_t *poison = &c.inbox[device]->poison;
    if (*poison == 0) *poison = code << 16 | peer;
  }
}

__device__ inline bool isSet(const uint32_t *flag, uint32_t epoch) {
  return static_cast<int32_t>(loadAcquire(flag) - epoch) >= 0;
}

// Compares the calls of the devices that are ready with this one. Returns false after a mismatch.
__device__ inline bool compareCalls(const OnePassCommon &c, uint32_t epoch) {
  const Inbox &inbox = *c.inbox[c.device];
  for (uint32_t peer = 0; c.hasProcesses != 0 && peer < c.devices; peer++) {
    if (peer == c.device || !isSet(&inbox.ready[peer], epoch)) continue;
    if (inbox.message[epoch % 2][peer].digest == c.digest) continue;
    fail(c, failureMismatch, epoch, peer);
    return false;
  }
  return true;
}

// The device to name after a wait for `peer` ran out: the first one that is not ready for the call, since a
// peer that is ready may itself wait for that one; `peer` if all are ready. Not inline: off the path of
// waits.
__device__ __noinline__ inline uint32_t lateDevice(const Inbox *own, uint32_t devices, uint32_t self,
                                                   uint32_t epoch, uint32_t peer) {
  for (uint32_t device = 0; device < devices; device++) {
    if (device != self && !isSet(&own->ready[device], epoch)) return device;
  }
  return peer;
}

// Waits for device `peer` until hasCome(). Returns false after a failure of this device or of another one.
template <class F>
__device__ bool awaitUntil(const OnePassCommon &c, uint32_t epoch, uint32_t peer, F hasCome) {
  constexpr uint32_t looksPerClock = 256;
  uint64_t start = 0;
  for (uint32_t looks = 1; !hasCome(); looks++) {
    if (looks % looksPerClock != 0) continue;
    if (hasFailed(c)) return false;
    const uint32_t poison = *static_cast<volatile uint32_t *>(&c.inbox[c.device]->poison);
    const uint64_t now = nanoseconds();
    if (start == 0) start = now;
    if (!compareCalls(c, epoch)) {
      return false;
    } else if (poison != 0) {
      fail(c, static_cast<FailureCode>(poison >> 16), epoch, poison & 0xffff);
    } else if (now - start >= c.deadlineNs) {
      const uint32_t late = lateDevice(c.inbox[c.device], c.devices, c.device, epoch, peer);
      fail(c, failureTimeout, epoch, late);
    }
  }
  return true;
}

// Waits until `flag` has reached `epoch`. Returns false after a failure.
__device__ inline bool awaitFlag(const OnePassCommon &c, const uint32_t *flag, uint32_t epoch,
                                 uint32_t peer) {
  return awaitUntil(c, epoch, peer, [&] { return isSet(flag, epoch); });
}

}  // namespace fusco::cuda
