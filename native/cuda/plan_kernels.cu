// The kernels that plan on the device, one for each pass; small_plan_kernels.cu has those of small plans.
//
// A kernel of a plan may start before the one in front of it has ended, which saves the time of a launch. All
// of its threads then wait for that end before they read or write anything, so that memory is as if kernels
// ran one after the other; a kernel that has ended has waited for the one in front of it. The first kernel of
// a call starts when everything in front of it on the stream has ended. Kernels that wait for other processes
// let the next one start only when they have waited, so that blocks which do nothing leave the SMs free.

#include <algorithm>

#include "plan_device.cuh"
#include "plan_edges_device.cuh"
#include "plan_launch.hpp"

namespace fusco::cuda {

namespace {

constexpr uint32_t tileWarps = tilesOfBlock;  // of a block
constexpr uint32_t tileThreads = tileWarps * warpSize_;
constexpr uint32_t mostTableThreads = 1024;
constexpr uint32_t leastTableThreads = 256;
constexpr uint32_t tellThreads = 512;

// State of the signals between processes; `control` is null where one process has all ranks.
struct Signals {
  const LaunchControl *control;
};

// After a failure of a wait facts are missing: nothing is planned from them.
__device__ bool isGivenUp(const Signals &signals) {
  return signals.control != nullptr && *static_cast<const volatile uint32_t *>(&signals.control->failed) != 0;
}

__device__ uint32_t firstOfBlock() { return blockIdx.x * blockWarps(); }

__global__ void __launch_bounds__(tileThreads) routeTiles(const __grid_constant__ PlanParams params) {
  awaitStreamOrder();
  routeBlock(params, blockIdx.y, firstOfBlock());
}

__global__ void __launch_bounds__(tileThreads) scanTargets(const __grid_constant__ PlanParams params) {
  awaitStreamOrder();
  scanBlock(params, blockIdx.y, firstOfBlock());
}

// A block for each rank.
__global__ void __launch_bounds__(mostTableThreads) layRanks(const __grid_constant__ PlanParams params) {
  __shared__ BlockWords shared;
  awaitStreamOrder();
  layBlock(params, blockIdx.x, shared);
}

// The same for the rank of this process, behind the begin edge.
__global__ void __launch_bounds__(mostTableThreads)
    layProcess(const __grid_constant__ PlanParams params, const __grid_constant__ OnePassCommon common) {
  __shared__ BlockWords shared;
  awaitPrevious();
  const bool hasFacts = ProcessEdges(common).begin();
  allowNext();
  if (hasFacts) layBlock(params, 0, shared);
}

__global__ void __launch_bounds__(tileThreads)
    placeTiles(const __grid_constant__ PlanParams params, const Signals signals) {
  awaitStreamOrder();
  if (!isGivenUp(signals)) placeBlock(params, blockIdx.y, firstOfBlock());
}

// What tellRanks does.
struct TellWork {
  bool scans;  // the counts of nodes
  bool lays;   // landing rows, which takes that all ranks have told their counts
};

// A block for each rank that scans; else one.
__global__ void __launch_bounds__(tellThreads)
    tellRanks(const __grid_constant__ PlanParams params, const TellWork work) {
  __shared__ BlockWords shared;
  awaitStreamOrder();
  if (work.scans) {
    const uint32_t rank = params.rankOf[blockIdx.x];
    scanNodes(params.sizes, bufferOf(params, rank), GlobalPeers(params, rank));
  }
  if (!work.lays || (work.scans && !isLastToTell(params, shared))) return;
  layForwardBlock(params);
}

// All of it for the rank of this process, around the end edge. In flat plans only the edge.
__global__ void __launch_bounds__(tellThreads)
    tellProcess(const __grid_constant__ PlanParams params, const __grid_constant__ OnePassCommon common) {
  awaitPrevious();
  const bool isFlat = params.sizes.isFlat != 0;
  const uint32_t rank = params.rankOf[0];
  const ProcessEdges edges(common);
  if (!isFlat && !edges.hasFailedHere()) {
    scanNodes(params.sizes, bufferOf(params, rank), GlobalPeers(params, rank));
  }
  const bool hasFacts = edges.end();
  allowNext();
  if (!isFlat && hasFacts) layForwardBlock(params);
}

// The grid's y dimension counts the local ranks that forward, and then the ranks whose arrivals are taken.
__global__ void __launch_bounds__(tileThreads)
    forwardTiles(const __grid_constant__ PlanParams params, const Signals signals,
                 const uint32_t forwarders) {
  awaitStreamOrder();
  if (isGivenUp(signals)) return;
  if (blockIdx.y < forwarders) {
    forwardBlock(params, blockIdx.y, firstOfBlock());
  } else {
    takeBlock(params, blockIdx.y - forwarders, blockIdx.x, gridDim.x);
  }
}

uint32_t ceilDiv(uint32_t value, uint32_t by) { return (value + by - 1) / by; }

// Launches kernels of a plan, one after the other.
class PlanLauncher {
 public:
  PlanLauncher(const PlanParams &params, const OnePassCommon *signals, cudaStream_t stream)
      : params_(params), sizes_(params.sizes), signals_(signals), stream_(stream) {
    if (signals != nullptr) state_.control = signals->control;
  }

  void counts() {
    launch(routeTiles, warpGrid(sizes_.tiles), tileThreads, tileBytes(true, false), params_);
    launch(scanTargets, warpGrid(sizes_.targets), tileThreads, 0, params_);
  }

  void slots() {
    const uint32_t tableBytes = stagedTableBytes(sizes_);
    const uint32_t threads =
        std::clamp(ceilDiv(sizes_.instances, warpSize_) * warpSize_, leastTableThreads, mostTableThreads);
    if (signals_ == nullptr) {
      launch(layRanks, params_.localRanks, threads, tableBytes, params_);
    } else {
      launch(layProcess, 1, threads, tableBytes, params_, *signals_);
    }
    launch(placeTiles, warpGrid(sizes_.tiles), tileThreads, tileBytes(true, !isFlat()), params_, state_);
  }

  // `lays`: no other device is waited for before landing rows are laid out.
  void tell(bool lays) {
    const uint32_t bytes = sizeof(ForwardShared);
    if (signals_ != nullptr) {
      launch(tellProcess, 1, tellThreads, isFlat() ? 0 : bytes, params_, *signals_);
    } else if (!isFlat()) {
      launch(tellRanks, params_.localRanks, tellThreads, bytes, params_, TellWork{true, lays});
    }
  }

  void layLandings() {
    if (!isFlat()) launch(tellRanks, 1, tellThreads, sizeof(ForwardShared), params_, TellWork{false, true});
  }

  void forward() {
    const uint32_t forwarders = isFlat() ? 0 : params_.localRanks;
    const uint32_t takers = signals_ == nullptr ? 0 : sizes_.ranks;
    if (forwarders + takers == 0) return;
    dim3 grid(1, forwarders + takers);
    if (forwarders > 0) grid.x = ceilDiv(sizes_.tiles, tileWarps);
    if (takers > 0) {
      const auto entries = static_cast<uint32_t>(sizes_.maxEntries());
      grid.x = std::max(grid.x, ceilDiv(entries, 8 * tileThreads));
    }
    launch(forwardTiles, grid, tileThreads, tileBytes(false, true), params_, state_, forwarders);
  }

  cudaError_t error() const { return error_; }

 private:
  bool isFlat() const { return sizes_.isFlat != 0; }
  // A warp for each of `count` tiles or keys of each local rank.
  dim3 warpGrid(uint32_t count) const { return {ceilDiv(count, tileWarps), params_.localRanks}; }
  uint32_t tileBytes(bool hasTargets, bool hasNodes) const {
    return TileShared(sizes_, tileWarps, hasTargets, hasNodes).bytes();
  }

  template <class... Params, class... Args>
  void launch(void (*kernel)(Params...), dim3 grid, uint32_t threads, uint32_t sharedBytes,
              const Args &...args) {
    if (error_ != cudaSuccess) return;
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = threads;
    config.dynamicSmemBytes = sharedBytes;
    config.stream = stream_;
    config.attrs = &attribute;
    // What is in front of the first kernel may be anything.
    config.numAttrs = isFirst_ ? 0 : 1;
    isFirst_ = false;
    error_ = cudaLaunchKernelEx(&config, kernel, args...);
  }

  const PlanParams &params_;
  const PlanSizes &sizes_;
  const OnePassCommon *signals_;
  cudaStream_t stream_;
  Signals state_{nullptr};
  bool isFirst_ = true;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace

cudaError_t launchPlan(const PlanParams &params, uint32_t parts, const OnePassCommon *signals,
                       cudaStream_t stream) {
  const uint32_t all = planCounts | planSlots | planForward;
  if (parts == all && isSmallPlan(params)) return launchSmallPlan(params, stream);
  const bool isWhole = (parts & planForward) != 0 && (parts & planSlots) != 0;
  PlanLauncher launcher(params, signals, stream);
  if ((parts & planCounts) != 0) launcher.counts();
  if ((parts & planSlots) != 0) {
    launcher.slots();
    launcher.tell(isWhole);
  }
  if ((parts & planForward) != 0) {
    if (!isWhole) launcher.layLandings();
    launcher.forward();
  }
  // Also clears CUDA's own note of a failed launch.
  const cudaError_t noted = cudaGetLastError();
  return launcher.error() != cudaSuccess ? launcher.error() : noted;
}

}  // namespace fusco::cuda
