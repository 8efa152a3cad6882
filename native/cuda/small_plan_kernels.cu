// The kernel of small plans, if one device has all ranks: one block for each makes all of its plan.

#include <algorithm>
#include <atomic>

#include "plan_launch.hpp"
#include "small_plan_device.cuh"

namespace fusco::cuda {

namespace {

constexpr uint32_t mostThreads = 1024;
constexpr uint32_t leastThreads = 256;

std::atomic<bool> areSmallPlansMade{true};

// The blocks of a cluster wait for one another. What a thread has stored before, all threads then see.
struct ClusterEdge {
  __device__ void wait() const {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  }
};

// The address in the shared memory of block `block` of the cluster of what is at `pointer` in this block.
struct ClusterMap {
  template <class T>
  __device__ T *operator()(T *pointer, uint32_t block) const {
    uint64_t address;
    asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(pointer), "r"(block));
    return reinterpret_cast<T *>(address);
  }
};

// Block number r of the only cluster is rank r.
__global__ void __launch_bounds__(mostThreads, 1) planCluster(const __grid_constant__ PlanParams params) {
  __shared__ BlockWords shared;
  const uint32_t rank = blockIdx.x;
  planSmallBlock(params, rank, ClusterEdge(), SharedPeers(params, rank, ClusterMap()), shared);
}

// A warp for each tile, as far as a block has that many.
uint32_t threadsOf(const PlanSizes &sizes) {
  return std::clamp(sizes.tiles * warpSize_, leastThreads, mostThreads);
}

}  // namespace

void makeSmallPlans(bool areMade) { areSmallPlansMade = areMade; }

bool isSmallPlan(const PlanParams &params) {
  const PlanSizes &sizes = params.sizes;
  // The sizes of clusters that every device of this kind takes.
  const bool isClusterSize = sizes.ranks <= mostClusterRanks && (sizes.ranks & (sizes.ranks - 1)) == 0;
  return sizes.isSmall != 0 && areSmallPlansMade && isClusterSize && params.localRanks == sizes.ranks;
}

cudaError_t launchSmallPlan(const PlanParams &params, cudaStream_t stream) {
  const auto bytes = static_cast<uint32_t>(sharedPlanBytes(params.offsets));
  const cudaError_t error =
      cudaFuncSetAttribute(planCluster, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = params.localRanks;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = params.localRanks;
  config.blockDim = threadsOf(params.sizes);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, planCluster, params);
}

}  // namespace fusco::cuda
