// Host side of the kernels that plan on the device. Each call enqueues for all ranks of one device and
// returns CUDA's verdict. Between the parts, the devices of a context wait for one another: a part reads what
// all ranks wrote in the part before.
#pragma once

#include "one_pass.hpp"
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
  uint32_t rankOf[maxRanks];       // local index -> rank
  RankIds ids[maxRanks];           // by local index
  uint8_t *buffers[maxRanks];      // plan buffers, by rank; other devices' are peer-accessible
  RankBits deviceRanks[maxRanks];  // by rank: the ranks on its device
  uint32_t hasOthers;              // other devices take part: ranks tell one another where rows go
  // Where every rank is a process, the others write its facts here, by rank; null elsewhere. Buffers of ranks
  // that are not local are null then.
  FactInbox inbox[maxRanks];
};

// The parts of planning, between which the ranks of other devices are waited for.
enum PlanPart : uint32_t { planCounts = 1, planSlots = 2, planForward = 4 };

// Parts of planning, a kernel for each pass over entries or instances:
//
//   planCounts   ids to targets; each rank's counts go to all ranks
//   planSlots    blocks, runs, slots, the send order, and what exchanges read; in hierarchical plans each
//                rank's rows per node go to all ranks
//   planForward  of hierarchical plans: rail groups, landing rows and forwarding lists; between processes:
//                what the others have told of their tokens
//
// `signals`: of the call, where every rank is a process; else null.
cudaError_t launchPlanPart(const PlanParams &params, PlanPart part, const OnePassCommon *signals,
                           cudaStream_t stream);

}  // namespace fusco::cuda
