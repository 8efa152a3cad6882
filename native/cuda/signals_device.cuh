// Signals between kernels of different GPUs, and the tickets by which the blocks of one launch share work.
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

#include "signals.hpp"

namespace fusco::cuda {

__device__ __forceinline__ void storeRelease(uint32_t *address, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

__device__ __forceinline__ uint32_t loadAcquire(const uint32_t *address) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}

__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t value;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(value));
  return value;
}

// Waits until `flag` has reached `epoch`. Returns early after a failure, which it records if it is the first
// one.
__device__ inline void awaitFlag(const uint32_t *flag, uint32_t epoch, LaunchControl *control,
                                 uint64_t deadlineNs, WaitFailure *failure, uint32_t peer) {
  constexpr uint32_t looksPerClock = 256;
  uint64_t start = 0;
  for (uint32_t looks = 1; static_cast<int32_t>(loadAcquire(flag) - epoch) < 0; looks++) {
    if (looks % looksPerClock != 0) continue;
    if (*static_cast<volatile uint32_t *>(&control->failed) != 0) return;
    const uint64_t now = nanoseconds();
    if (start == 0) start = now;
    if (now - start < deadlineNs) continue;
    if (atomicExch(&control->failed, 1u) == 0) {
      failure->epoch = epoch;
      failure->peer = peer;
      __threadfence_system();
      *static_cast<volatile uint32_t *>(&failure->code) = 1;
    }
    return;
  }
}

}  // namespace fusco::cuda
