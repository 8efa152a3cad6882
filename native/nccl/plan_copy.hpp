// A copy in host memory of what the host needs of a plan buffer, made by one asynchronous copy: everything
// from the state to the lists, at the same offsets.
#pragma once

#include "cuda_context.hpp"
#include "plan_shard.hpp"

namespace fusco::nccl {

class PlanCopy {
 public:
  // Allocates pinned memory. Throws E_MEMORY, E_BACKEND.
  PlanCopy(cuda::CudaContext &context, uint32_t device, const cuda::PlanSizes &sizes);
  // Nothing may be copying to it any more.
  ~PlanCopy();
  PlanCopy(const PlanCopy &) = delete;
  PlanCopy &operator=(const PlanCopy &) = delete;

  // Enqueues the copy behind what is on `stream`. Returns CUDA's verdict.
  cudaError_t read(const uint8_t *planBuffer, cudaStream_t stream);
  // Recorded behind the last read.
  cudaEvent_t done() const { return done_.get(); }
  uint64_t bytes() const { return bytes_; }
  // Host memory; what follows the lists is not there. Once the copy is done.
  const cuda::PlanBuffer &tables() const { return tables_; }

 private:
  uint64_t bytes_;
  uint8_t *memory_ = nullptr;
  cuda::PlanBuffer tables_{};
  cuda::Event done_;
};

}  // namespace fusco::nccl
