#include "spin.hpp"

namespace fusco::cuda {

namespace {

__device__ uint64_t now() {
  uint64_t time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
  return time;
}

__global__ void spin(uint64_t nanoseconds) {
  const uint64_t start = now();
  while (now() - start < nanoseconds) {
  }
}

}  // namespace

cudaError_t launchSpin(uint64_t nanoseconds, cudaStream_t stream) {
  spin<<<1, 1, 0, stream>>>(nanoseconds);
  return cudaGetLastError();
}

}  // namespace fusco::cuda
