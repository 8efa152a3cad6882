// Signals between kernels of different GPUs, and the waits for them.
//
// Memory ordering. A sender completes its stores, then stores a flag with `release` at system scope. A
// receiver loads the flag with `acquire` at system scope, then loads the rows. Bulk stores of the TMA unit
// are complete after tmaWait() of the issuing thread. Bulk loads that follow an acquire need
// tmaAcquireFence().
//
// Flags hold the epoch of the call and only grow, so they are never reset: a flag is set once the difference
// to the epoch, as a signed number, is not negative. The epoch is in device memory and the last block of a
// launch advances it; a captured launch therefore replays unchanged.
//
// A device that fails tells each other device by two stores: its culprits, to a word that only this device
// writes and only once, then `poison` with `release` at system scope, which says whose culprits count. The
// receiver loads `poison` with `acquire`, then these culprits. Where two devices tell at the same time, one
// of the two remains, with its own culprits.
#pragma once

#include "flag_device.cuh"
#include "one_pass_common.hpp"

namespace fusco::cuda {

// The clock of waits, never 0, in ticks of 65 us: 32 bits hold 78 hours and save the kernels a register.
constexpr uint32_t tickBits = 16;
__device__ __forceinline__ uint32_t ticks() { return static_cast<uint32_t>(nanoseconds() >> tickBits) | 1; }

__device__ __forceinline__ bool hasFailed(const OnePassCommon &c) {
  return *static_cast<volatile uint32_t *>(&c.control->failed) != 0;
}

__device__ inline RankBits only(uint32_t device) { return {uint64_t{1} << device}; }

// Records the first failure of this device, and tells the other devices, so that all name the same culprits.
__device__ inline void fail(const OnePassCommon &c, FailureCode code, uint32_t epoch, RankBits culprits) {
  if (atomicExch(&c.control->failed, 1u) != 0) return;
  c.failure->epoch = epoch;
  c.failure->culprits = culprits;
  c.failure->digest = c.digest;
  __threadfence_system();
  *static_cast<volatile uint32_t *>(&c.failure->code) = code;
  for (uint32_t device = 0; device < c.devices; device++) {
    if (device == c.device) continue;
    // The first one to write stays, as far as that is possible without atomics over the link.
    Inbox &inbox = *c.inbox[device];
    if (*static_cast<volatile uint32_t *>(&inbox.poison) != 0) continue;
    inbox.culprits[c.device] = culprits;
    storeRelease(&inbox.poison, code << 16 | c.device);
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
    fail(c, failureMismatch, epoch, only(peer));
    return false;
  }
  return true;
}

// The other devices whose flag has not reached `epoch`.
__device__ inline RankBits missing(const uint32_t *flags, uint32_t devices, uint32_t self, uint32_t epoch) {
  RankBits late;
#pragma unroll 1
  for (uint32_t device = 0; device < devices; device++) {
    if (device != self && !isSet(flags + device, epoch)) late.add(device);
  }
  return late;
}

// The devices to name after a wait for `peer` ran out: those that are not ready for the call, since a peer
// that is ready may itself wait for them. If all are ready, those that are not done, where the wait was for
// that; else `peer`. Loops are not unrolled: they are off the path of waits.
__device__ inline RankBits lateDevices(const OnePassCommon &c, uint32_t epoch, uint32_t peer, bool isEnd) {
  const Inbox &own = *c.inbox[c.device];
  const RankBits notReady = missing(own.ready, c.devices, c.device, epoch);
  if (notReady.bits != 0) return notReady;
  const RankBits notDone = isEnd ? missing(own.done, c.devices, c.device, epoch) : RankBits{};
  return notDone.bits != 0 ? notDone : only(peer);
}

// Waits for device `peer` until hasCome(). Returns false after a failure of this device or of another one.
// `isEnd`: for the end of its call.
template <class F>
__device__ bool awaitUntil(const OnePassCommon &c, uint32_t epoch, uint32_t peer, F hasCome,
                           bool isEnd = false) {
  constexpr uint32_t looksPerClock = 256;
  uint32_t start = 0;
  for (uint32_t looks = 1; !hasCome(); looks++) {
    if (looks % looksPerClock != 0) continue;
    if (hasFailed(c)) return false;
    const Inbox &own = *c.inbox[c.device];
    const uint32_t poison = loadAcquire(&own.poison);
    const uint32_t now = ticks();
    if (start == 0) start = now;
    if (!compareCalls(c, epoch)) return false;
    if (poison == 0 && uint64_t{now - start} << tickBits < c.deadlineNs) continue;
    const bool isTold = poison != 0;
    fail(c, isTold ? static_cast<FailureCode>(poison >> 16) : failureTimeout, epoch,
         isTold ? own.culprits[poison & 0xffff] : lateDevices(c, epoch, peer, isEnd));
    return false;
  }
  return true;
}

// Waits until `flag` has reached `epoch`. Returns false after a failure.
__device__ inline bool awaitFlag(const OnePassCommon &c, const uint32_t *flag, uint32_t epoch,
                                 uint32_t peer) {
  return awaitUntil(c, epoch, peer, [&] { return isSet(flag, epoch); });
}

}  // namespace fusco::cuda
