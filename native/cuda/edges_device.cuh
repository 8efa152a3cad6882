// The edges of a call between processes, by the threads of one block: number `device` waits for that device.
#pragma once

#include "one_pass_device.cuh"

namespace fusco::cuda {

// The epoch of the call that is under way, which its end edge completes.
__device__ inline uint32_t epochOf(const OnePassCommon &c) {
  return *static_cast<volatile uint32_t *>(&c.control->epoch) + 1;
}

// What the block, and kernels before it, have stored to other devices is seen there after their begin edge.
// Returns false after a failure, or if `device` is no other device.
__device__ inline bool beginEdgeAt(const OnePassCommon &c, uint32_t epoch, uint32_t device,
                                   const ToldAddresses *told) {
  if (device >= c.devices || device == c.device) return false;
  if (!hasFailed(c)) tellReady(c, epoch, device, told);
  return awaitPeer(c, epoch, device);
}

// The same at the end of the call. All threads of the block take part.
__device__ inline void endEdgeAt(const OnePassCommon &c, uint32_t epoch, uint32_t device) {
  if (device < c.devices && device != c.device && !hasFailed(c)) {
    storeRelease(&c.inbox[device]->done[c.device], epoch);
    const uint32_t *done = &c.inbox[c.device]->done[device];
    awaitUntil(
        c, epoch, device, [&] { return isSet(done, epoch); }, true);
  }
  __syncthreads();
  if (device == 0) *static_cast<volatile uint32_t *>(&c.control->epoch) = epoch;
}

}  // namespace fusco::cuda
