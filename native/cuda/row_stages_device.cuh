// Rows on their way through shared memory: each warp has a ring of stages, into which the TMA unit loads one
// row slice each, and uses the slices in the order of their loads.
// Each kernel asks for slices itself: a common function for that makes other code of sums of float32.
#pragma once

#include "tma_copy_device.cuh"

namespace fusco::cuda {

// A warp with a ring of stages: numbers of slices since the launch began.
struct StagedWarp {
  uint32_t index;  // in the block
  uint32_t lane;
  uint32_t issued = 0;
  uint32_t consumed = 0;
  bool mayStore = false;  // other devices are known to be ready
};

// Initializes the barriers of all stages: called by the threads of the block, at least one for each. `T` says
// how many warps and stages there are, `shared` has stage[warps][stages][bytes] and barrier[warps][stages].
template <class T, class Shared>
__device__ void initStages(Shared &shared) {
  if (threadIdx.x < T::warps * T::stages) barrierInit(&shared.barrier[0][0] + threadIdx.x);
  barrierInitFence();
}

// Waits for the next slice, and returns its stage.
template <class T, class Shared>
__device__ uint32_t awaitStage(Shared &shared, StagedWarp &warp) {
  const uint32_t stage = warp.consumed % T::stages;
  barrierWait(&shared.barrier[warp.index][stage], (warp.consumed / T::stages) & 1);
  warp.consumed++;
  return stage;
}

}  // namespace fusco::cuda
