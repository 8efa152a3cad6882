#include "plan_copy.hpp"

namespace fusco::nccl {

PlanCopy::PlanCopy(cuda::CudaContext &context, uint32_t device, const cuda::PlanSizes &sizes) {
  cuda::PlanBuffer offsets{};
  cuda::layPlanBuffer(sizes, nullptr, offsets);
  bytes_ = cuda::shardTableBytes(offsets);
  done_.create(device, cuda::Timing::off);
  context.check(cudaHostAlloc(reinterpret_cast<void **>(&memory_), bytes_, cudaHostAllocDefault),
                "allocating memory for a plan that is read back");
  cuda::layPlanBuffer(sizes, memory_, tables_);
}

PlanCopy::~PlanCopy() {
  cudaFreeHost(memory_);
  (void)cudaGetLastError();
}

cudaError_t PlanCopy::read(const uint8_t *planBuffer, cudaStream_t stream) {
  const cudaError_t error = cudaMemcpyAsync(memory_, planBuffer, bytes_, cudaMemcpyDeviceToHost, stream);
  return error != cudaSuccess ? error : cudaEventRecord(done_.get(), stream);
}

}  // namespace fusco::nccl
