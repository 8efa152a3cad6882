// What the host reads of one rank's plan buffer, when planning is done.
#pragma once

#include "cuda_context.hpp"
#include "plan_shard.hpp"

namespace fusco::cuda {

class PlanReader {
 public:
  // The context, spec and sizes outlive the object. `contextRank`: the rank of the context whose device has
  // the buffer; `rank`: the rank that was planned.
  PlanReader(CudaContext &context, uint32_t contextRank, const planning::Spec &spec, const PlanSizes &sizes,
             uint8_t *buffer, uint32_t rank);

  fusco_cuda_plan_view view() const;
  // Throws E_ROUTING_ID, E_ROUTING_DUPLICATE for the first bad id, E_BACKEND.
  PlanState state() const;
  // Writes the rank's shard unless `shard` has no memory. Returns its bytes. Throws E_BUFFER, and what state
  // throws.
  uint64_t packShard(const fusco_buffer &shard) const;

 private:
  void download(void *to, const void *from, uint64_t bytes) const;

  CudaContext &context_;
  uint32_t contextRank_;
  const planning::Spec &spec_;
  uint32_t rank_;
  PlanBuffer buffer_;
};

}  // namespace fusco::cuda
