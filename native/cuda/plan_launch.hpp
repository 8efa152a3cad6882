// Host side of the kernels that plan on the device. Each call enqueues for all ranks of one device and
// returns CUDA's verdict. Between the parts, the devices of a context wait for one another: a part reads what
// all ranks wrote in the part before.
#pragma once

#include "exchange_launch.hpp"
#include "plan_buffer.hpp"
#include "route_pass.hpp"

namespace fusco::cuda {

// One rank's ids, device memory.
struct RankIds {
  const void *data;
  uint32_t tokens;
  fusco_id_dtype dtype;
};

struct PlanParams {
  PlanSizes sizes;
  PlacementTables placement;
  // Targets of each expert for each local rank. `first` null: every expert has one, that of `targets`.
  const uint32_t *candidateFirst;  // [localRanks, experts]
  const uint32_t *candidateCount;  // [localRanks, experts]
  const uint16_t *targets;         // [localRanks, targetStride]
  uint32_t targetStride;
  uint32_t localRanks;
  uint32_t rankOf[maxRanks];   // local index -> rank
  RankIds ids[maxRanks];       // by local index
  uint8_t *buffers[maxRanks];  // plan buffers, by rank; other devices' are peer-accessible
};

// First part: ids to targets; each rank's counts go into all plan buffers.
cudaError_t launchPlanCounts(const PlanParams &params, cudaStream_t stream);
// Second part: blocks, runs, slots and the send order; in hierarchical plans also each rank's rows per node,
// to all plan buffers.
cudaError_t launchPlanSlots(const PlanParams &params, cudaStream_t stream);
// Third part, of hierarchical plans: rail groups, landing rows and forwarding lists.
cudaError_t launchPlanForward(const PlanParams &params, cudaStream_t stream);

}  // namespace fusco::cuda
