// The kernels that plan on the device: one for each pass.

#include <algorithm>

#include "plan_device.cuh"
#include "signals.hpp"

namespace fusco::cuda {

namespace {

constexpr uint32_t tileWarps = 4;  // of a block
constexpr uint32_t tileThreads = tileWarps * warpSize_;
constexpr uint32_t tableThreads = 1024;
constexpr uint32_t landingThreads = 128;

// State of the signals between processes; `control` is null where one process has all ranks.
struct Signals {
  const LaunchControl *control;
};

// After a failure of a wait facts are missing: nothing is planned from them.
__device__ bool isGivenUp(const Signals &signals) {
  return signals.control != nullptr && *static_cast<const volatile uint32_t *>(&signals.control->failed) != 0;
}

// The number of a warp in the grid's x dimension.
__device__ uint32_t warpNumber() { return (blockIdx.x * blockDim.x + threadIdx.x) / warpSize_; }

__global__ void __launch_bounds__(tileThreads) routeTiles(const __grid_constant__ PlanParams params) {
  if (warpNumber() < params.sizes.tiles) routeTile(params, blockIdx.y, warpNumber());
}

__global__ void scanTargets(const __grid_constant__ PlanParams params) {
  if (warpNumber() < params.sizes.targets) scanTarget(params, blockIdx.y, warpNumber());
}

// A block for each rank.
__global__ void __launch_bounds__(tableThreads)
    layRanks(const __grid_constant__ PlanParams params, const Signals signals) {
  __shared__ uint32_t shared[warpSize_];
  if (!isGivenUp(signals)) layTables(params, blockIdx.x, shared);
}

__global__ void __launch_bounds__(tileThreads)
    placeTiles(const __grid_constant__ PlanParams params, const Signals signals) {
  if (isGivenUp(signals)) return;
  if (warpNumber() < params.sizes.tiles) placeTile(params, blockIdx.y, warpNumber());
}

__global__ void __launch_bounds__(tileThreads)
    countForwardedTiles(const __grid_constant__ PlanParams params, const Signals signals) {
  if (isGivenUp(signals)) return;
  if (warpNumber() < params.sizes.tiles) countForwarded(params, blockIdx.y, warpNumber());
}

__global__ void scanNodes(const __grid_constant__ PlanParams params, const Signals signals) {
  if (isGivenUp(signals)) return;
  if (warpNumber() < params.sizes.nodes) scanNode(params, blockIdx.y, warpNumber());
}

// A block for each rank.
__global__ void layForwardRanks(const __grid_constant__ PlanParams params, const Signals signals) {
  if (!isGivenUp(signals)) layForward(params, blockIdx.x);
}

__global__ void __launch_bounds__(tileThreads)
    forwardTiles(const __grid_constant__ PlanParams params, const Signals signals) {
  if (isGivenUp(signals)) return;
  if (warpNumber() < params.sizes.tiles) forwardTile(params, blockIdx.y, warpNumber());
}

// The grid's y dimension counts the other ranks.
__global__ void __launch_bounds__(tileThreads)
    takeArrivals(const __grid_constant__ PlanParams params, const Signals signals) {
  if (isGivenUp(signals)) return;
  takeArrival(params, 0, blockIdx.y, blockIdx.x * uint64_t{blockDim.x} + threadIdx.x,
              gridDim.x * uint64_t{blockDim.x});
}

uint32_t ceilDiv(uint32_t value, uint32_t by) { return (value + by - 1) / by; }

// A warp for each of `count` tiles or keys of each local rank.
dim3 warpGrid(const PlanParams &params, uint32_t count) {
  return {ceilDiv(count, tileWarps), params.localRanks};
}

void launchSlots(const PlanParams &params, const Signals &signals, cudaStream_t stream) {
  const PlanSizes &sizes = params.sizes;
  const dim3 tiles = warpGrid(params, sizes.tiles);
  layRanks<<<params.localRanks, tableThreads, 0, stream>>>(params, signals);
  placeTiles<<<tiles, tileThreads, counterBytes(sizes.targets, 1, tileWarps), stream>>>(params, signals);
  if (sizes.isFlat != 0) return;
  countForwardedTiles<<<tiles, tileThreads, counterBytes(sizes.nodes, 2, tileWarps), stream>>>(params,
                                                                                               signals);
  scanNodes<<<warpGrid(params, sizes.nodes), tileThreads, 0, stream>>>(params, signals);
}

void launchForward(const PlanParams &params, const Signals &signals, cudaStream_t stream) {
  const PlanSizes &sizes = params.sizes;
  if (signals.control != nullptr) {
    const uint32_t blocks = std::max(1u, ceilDiv(static_cast<uint32_t>(sizes.maxEntries()), 8 * tileThreads));
    takeArrivals<<<dim3(blocks, sizes.ranks), tileThreads, 0, stream>>>(params, signals);
  }
  if (sizes.isFlat != 0) return;
  layForwardRanks<<<params.localRanks, landingThreads, sizeof(ForwardShared), stream>>>(params, signals);
  forwardTiles<<<warpGrid(params, sizes.tiles), tileThreads, counterBytes(sizes.nodes, 2, tileWarps),
                 stream>>>(params, signals);
}

}  // namespace

cudaError_t launchPlanPart(const PlanParams &params, PlanPart part, const OnePassCommon *signals,
                           cudaStream_t stream) {
  const PlanSizes &sizes = params.sizes;
  const Signals state = {signals == nullptr ? nullptr : signals->control};
  if (part == planCounts) {
    routeTiles<<<warpGrid(params, sizes.tiles), tileThreads, counterBytes(sizes.targets, 1, tileWarps),
                 stream>>>(params);
    scanTargets<<<warpGrid(params, sizes.targets), tileThreads, 0, stream>>>(params);
  } else if (part == planSlots) {
    launchSlots(params, state, stream);
  } else {
    launchForward(params, state, stream);
  }
  return cudaGetLastError();
}

}  // namespace fusco::cuda
