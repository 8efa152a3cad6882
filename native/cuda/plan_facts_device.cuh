// Plan buffers of ranks, and where ranks tell one another facts.
#pragma once

#include "plan_params.hpp"
#include "plan_tables.hpp"

namespace fusco::cuda {

__device__ inline PlanBuffer bufferOf(const PlanParams &params, uint32_t rank) {
  return tablesAt(params.offsets, params.buffers[rank]);
}

// What rank `from` tells rank `to`, in the plan buffer of `to`.
__device__ inline Facts factsIn(const PlanParams &params, const PlanBuffer &buffer, uint32_t to,
                                uint32_t from) {
  const PlanSizes &sizes = params.sizes;
  const uint64_t start = arrivalStart(sizes, params.deviceRanks[to], from);
  Facts facts;
  facts.counts = buffer.counts + uint64_t{from} * sizes.targets;
  facts.tokens = buffer.tokens + from;
  facts.nodeRows = buffer.nodeRows + uint64_t{from} * sizes.nodes;
  facts.arrival = buffer.arrival + start * sizes.topk;
  facts.arrivalRow = buffer.arrivalRow + start;
  return facts;
}

// Where rank `to` has what rank `from` tells it, in global memory.
__device__ inline Facts factsAt(const PlanParams &params, uint32_t to, uint32_t from) {
  if (params.inbox[to].counts != nullptr) return params.inbox[to].of(params.sizes, from);
  return factsIn(params, bufferOf(params, to), to, from);
}

// Whether every rank is a process, so that facts of others are copied from memory that they write.
__device__ inline bool hasInbox(const PlanParams &params, uint32_t rank) {
  return params.inbox[rank].counts != nullptr;
}

// Where rank `from` tells its facts, in global memory.
class GlobalPeers {
 public:
  __device__ GlobalPeers(const PlanParams &params, uint32_t from) : params_(params), from_(from) {}
  __device__ Facts factsOf(uint32_t to) const { return factsAt(params_, to, from_); }

 private:
  const PlanParams &params_;
  uint32_t from_;
};

}  // namespace fusco::cuda
