// Parameters of planning on the device. No CUDA.
#pragma once

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
  PlanBuffer offsets;  // the tables of a plan buffer at address 0
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

// For a device with one rank, whose facts are gathered between the parts of planning by other means: the rank
// writes all that it tells to its own plan buffer, at `buffer`, and tells nobody where its rows go.
inline void tellOwnBuffer(PlanParams &params, uint8_t *buffer) {
  params.hasOthers = 0;
  for (uint32_t rank = 0; rank < params.sizes.ranks; rank++) {
    params.deviceRanks[rank] = {};
    params.deviceRanks[rank].add(rank);
    params.buffers[rank] = buffer;
    params.inbox[rank] = {};
  }
}

}  // namespace fusco::cuda
