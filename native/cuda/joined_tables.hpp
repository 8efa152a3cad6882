// Tables of a device that has several ranks, joined from their plan buffers before each exchange: kernels of
// exchanges number the tokens of all ranks of their device.
#pragma once

#include <cuda_runtime_api.h>

#include "join_pass.hpp"
#include "one_pass_tables.hpp"

namespace fusco::cuda {

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
