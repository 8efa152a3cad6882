// Copies of TMA, the bulk-copy unit of each SM, between global and shared memory. Addresses and sizes are
// multiples of 16 bytes. A barrier in shared memory counts the bytes of loads; stores are counted in groups
// of a thread.
#pragma once

#include <cstdint>

namespace fusco::cuda {

__device__ inline uint32_t sharedAddress(const void *at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

__device__ inline void barrierInit(uint64_t *barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(sharedAddress(barrier)) : "memory");
}

__device__ inline void barrierExpect(uint64_t *barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(barrier)),
               "r"(bytes)
               : "memory");
}

// Makes initialized barriers visible to TMA.
__device__ inline void barrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Acquires what TMA wrote for this phase.
__device__ inline void barrierWait(uint64_t *barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(sharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

// An L2 policy whose lines are evicted first: received rows are read by a later kernel, if at all, and would
// only evict rows that are still to be read.
__device__ inline uint64_t evictFirstPolicy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

__device__ inline void tmaLoad(uint8_t *shared, const uint8_t *global, uint32_t bytes, uint64_t *barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          sharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(sharedAddress(barrier))
      : "memory");
}

__device__ inline void tmaStore(uint8_t *global, const uint8_t *shared, uint32_t bytes, uint64_t policy) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;" ::"l"(global),
               "r"(sharedAddress(shared)), "r"(bytes), "l"(policy)
               : "memory");
}

__device__ inline void tmaStore(uint8_t *global, const uint8_t *shared, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
               "r"(sharedAddress(shared)), "r"(bytes)
               : "memory");
}

__device__ inline void tmaCommit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// All but the last `pending` groups of this thread's stores have read shared memory.
template <int pending = 0>
__device__ inline void tmaWaitRead() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}

// This thread's stores have been made.
__device__ inline void tmaWait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Orders an acquire before the loads of TMA that follow.
__device__ inline void tmaAcquireFence() { asm volatile("fence.proxy.async;" ::: "memory"); }

// Orders ordinary stores to shared memory before the stores of TMA that read it.
__device__ inline void tmaSharedFence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

}  // namespace fusco::cuda
