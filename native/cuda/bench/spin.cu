// fusco_cuda_spin and fusco_cuda_occupy: a stream, or most of a GPU, that is busy for a given time.

#include <algorithm>

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

// Occupies one thread of each block.
__global__ void spin(uint64_t nanoseconds) {
  const uint64_t start = now();
  while (now() - start < nanoseconds) {
  }
}

const DeviceGroup &groupOf(const CudaContext &context, uint32_t rank) {
  const auto &groups = context.groups();
  return *std::find_if(groups.begin(), groups.end(),
                       [&](const DeviceGroup &group) { return group.device == context.deviceOf(rank); });
}

// Calls launch(context, stream) on the device of a rank.
template <class F>
fusco_status onRank(fusco_cuda_context *context, uint32_t rank, uint64_t nanoseconds, fusco_error *error,
                    F launch) {
  return guarded(error, [&] {
    if (context == nullptr) throw Failure(FUSCO_E_OPTION, "the context is NULL");
    CudaContext &shared = *context->shared;
    const std::lock_guard<std::mutex> turn(shared.mutex);
    shared.checkAlive();
    shared.checkRank(rank);
    constexpr uint64_t most = 10000000000;
    if (nanoseconds > most)
      throw Failure(FUSCO_E_OPTION, "a spin of more than 10 s").limited(nanoseconds, most);
    const OnDevice here(shared.deviceOf(rank));
    launch(shared, shared.stream(rank));
    shared.check(cudaGetLastError(), "launching a spin");
  });
}

}  // namespace

}  // namespace fusco::cuda

using namespace fusco::cuda;

fusco_status fusco_cuda_spin(fusco_cuda_context *context, uint32_t rank, uint64_t nanoseconds,
                             fusco_error *error) {
  return onRank(context, rank, nanoseconds, error,
                [&](CudaContext &, cudaStream_t stream) { spin<<<1, 1, 0, stream>>>(nanoseconds); });
}

fusco_status fusco_cuda_occupy(fusco_cuda_context *context, uint32_t rank, uint32_t sms_left,
                               uint64_t nanoseconds, fusco_error *error) {
  return onRank(context, rank, nanoseconds, error, [&](CudaContext &shared, cudaStream_t stream) {
    const DeviceGroup &group = groupOf(shared, rank);
    if (sms_left >= group.allSms) {
      throw fusco::Failure(FUSCO_E_OPTION, "%u SMs are to be left of %u", sms_left, group.allSms)
          .limited(sms_left, group.allSms);
    }
    // A block that has all shared memory of its SM leaves no room for another.
    const uint32_t bytes = group.limits.sharedBytes;
    shared.check(
        cudaFuncSetAttribute(spin, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "preparing a spin");
    spin<<<group.allSms - sms_left, 1, bytes, stream>>>(nanoseconds);
  });
}
