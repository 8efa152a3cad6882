// fusco_cuda_spin: a stream that is busy for a given time.

#include "cuda_context.hpp"
#include "fusco_cuda_bench.h"
#include "guard.hpp"

namespace fusco::cuda {

namespace {

__device__ uint64_t now() {
  uint64_t time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
  return time;
}

// Occupies one thread of the GPU.
__global__ void spin(uint64_t nanoseconds) {
  const uint64_t start = now();
  while (now() - start < nanoseconds) {
  }
}

}  // namespace

}  // namespace fusco::cuda

fusco_status fusco_cuda_spin(fusco_cuda_context *context, uint32_t rank, uint64_t nanoseconds,
                             fusco_error *error) {
  using fusco::Failure;
  return fusco::guarded(error, [&] {
    if (context == nullptr) throw Failure(FUSCO_E_OPTION, "the context is NULL");
    fusco::cuda::CudaContext &shared = *context->shared;
    const std::lock_guard<std::mutex> turn(shared.mutex);
    shared.checkAlive();
    shared.checkRank(rank);
    constexpr uint64_t most = 10000000000;
    if (nanoseconds > most)
      throw Failure(FUSCO_E_OPTION, "a spin of more than 10 s").limited(nanoseconds, most);
    const fusco::cuda::OnDevice here(shared.deviceOf(rank));
    fusco::cuda::spin<<<1, 1, 0, shared.stream(rank)>>>(nanoseconds);
    shared.check(cudaGetLastError(), "launching a spin");
  });
}
