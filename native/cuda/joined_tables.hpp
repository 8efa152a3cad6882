// Tables of a device that has several ranks, joined from their plan buffers before each exchange: kernels of
// exchanges number the tokens of all ranks of their device.
#pragma once

#include "exchange_launch.hpp"
#include "one_pass_tables.hpp"
#include "plan_tables.hpp"

namespace fusco::cuda {

struct JoinParams {
  PlanSizes sizes;
  RankBits local;  // the device's ranks
  uint32_t localRanks;
  uint32_t rankOf[maxRanks];   // local index -> rank
  uint8_t *buffers[maxRanks];  // plan buffers, by local index
  uint32_t hasOthers;          // there are other devices, so that there are one-pass tables
  DevicePlanHead *head;
  Place *place;
  PaddingRange *paddings;
  OnePassHead *onePass;
  Place *send;
  SumTerm *terms;
  uint32_t *arrival;
  uint32_t *arrivalRow;
};

// The joined tables of one device, in memory that is large enough for every plan of a planner.
class JoinedTables {
 public:
  // Byte offsets. `locals` ranks are on the device.
  JoinedTables(const PlanSizes &sizes, uint32_t locals, bool hasOthers);

  uint64_t bytes() const { return bytes_; }
  DeviceTables tables(uint8_t *memory) const;
  OnePassTables onePass(uint8_t *memory) const;
  // DispatchParams::barrier: zero at first.
  uint32_t *barrier(uint8_t *memory) const { return reinterpret_cast<uint32_t *>(memory + barrier_); }
  uint64_t barrierBytes() const { return 2 * sizeof(uint32_t); }
  // Parameters without ranks and buffers.
  JoinParams params(uint8_t *memory) const;

 private:
  const PlanSizes sizes_;
  bool hasOthers_;
  uint64_t remoteTokens_;
  OnePassLayout layout_;
  uint64_t place_, paddings_, onePass_, barrier_, bytes_;
};

// Enqueues on a stream of the current device.
cudaError_t launchJoin(const JoinParams &params, cudaStream_t stream);

}  // namespace fusco::cuda
