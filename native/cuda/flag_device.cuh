// Stores and loads of flags that other GPUs of the machine read and write, at system scope, and the clock of
// waits. Compiled for processors, where tests run device code, they order memory in the same way.
#pragma once

#include <cstdint>

#ifndef __CUDACC__
#include "clock.hpp"
#endif

namespace fusco::cuda {

#ifdef __CUDACC__

// What this thread has stored before, and what its warp has stored before the last __syncwarp(), is visible
// to every thread that loads the value by loadAcquire().
__device__ __forceinline__ void storeRelease(uint32_t *address, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

__device__ __forceinline__ void storeRelease(uint64_t *address, uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

// The value alone: other stores are not ordered with it.
__device__ __forceinline__ void storeRelaxed(uint64_t *address, uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

// A weight that is pushed to another device, in the lower half, and the epoch of the call: no flag is needed.
__device__ __forceinline__ uint64_t pushedWord(uint32_t epoch, float weight) {
  return uint64_t{epoch} << 32 | __float_as_uint(weight);
}

__device__ __forceinline__ uint32_t loadAcquire(const uint32_t *address) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}

__device__ __forceinline__ uint64_t loadAcquire(const uint64_t *address) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
  return value;
}

__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t value;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(value));
  return value;
}

#else

inline void storeRelease(uint32_t *address, uint32_t value) {
  __atomic_store_n(address, value, __ATOMIC_RELEASE);
}
inline uint32_t loadAcquire(const uint32_t *address) { return __atomic_load_n(address, __ATOMIC_ACQUIRE); }
inline uint64_t nanoseconds() { return steadyNs(); }

#endif

}  // namespace fusco::cuda
