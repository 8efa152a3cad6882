// The kernels of small plans: one block for each rank makes all of its plan.

#include <algorithm>
#include <atomic>

#include "plan_edges_device.cuh"
#include "plan_launch.hpp"
#include "small_plan_device.cuh"

namespace fusco::cuda {

namespace {

constexpr uint32_t mostThreads = 1024;
constexpr uint32_t leastThreads = 256;

std::atomic<bool> areSmallPlansMade{true};

// The blocks of a cluster wait for one another. What a thread has stored before, all threads then see.
struct ClusterEdges {
  // Blocks that have not started have no shared memory.
  __device__ void start() const { wait(); }
  __device__ bool begin() const { return wait(); }
  // No block ends, or changes its tables further, while others store facts there.
  __device__ bool end() const { return wait(); }

 private:
  __device__ bool wait() const {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    return true;
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

// All ranks of a process, on one device: block number r of the only cluster is rank r.
__global__ void __launch_bounds__(mostThreads, 1) planCluster(const __grid_constant__ PlanParams params) {
  __shared__ BlockWords shared;
  const uint32_t rank = blockIdx.x;
  planSmallBlock(params, rank, ClusterEdges(), SharedPeers(params, rank, ClusterMap()), shared);
}

// The rank of this process, which waits for the others.
__global__ void __launch_bounds__(mostThreads, 1)
    planProcess(const __grid_constant__ PlanParams params, const __grid_constant__ OnePassCommon common) {
  __shared__ BlockWords shared;
  planSmallBlock(params, 0, ProcessEdges(common), GlobalPeers(params, params.rankOf[0]), shared);
}

// A warp for each tile, as far as a block has that many.
uint32_t threadsOf(const PlanSizes &sizes) {
  return std::clamp(sizes.tiles * warpSize_, leastThreads, mostThreads);
}

template <class... Params, class... Args>
cudaError_t launchBlocks(void (*kernel)(Params...), const PlanParams &params, cudaStream_t stream,
                         const Args &...args) {
  const auto bytes = static_cast<uint32_t>(sharedPlanBytes(params.offsets));
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
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
  return cudaLaunchKernelEx(&config, kernel, params, args...);
}

}  // namespace

void makeSmallPlans(bool areMade) { areSmallPlansMade = areMade; }

bool isSmallPlan(const PlanParams &params, const OnePassCommon *signals) {
  const PlanSizes &sizes = params.sizes;
  if (sizes.isSmall == 0 || !areSmallPlansMade) return false;
  if (signals != nullptr) return true;
  // The sizes of clusters that every device of this kind takes.
  const bool isClusterSize = sizes.ranks <= mostClusterRanks && (sizes.ranks & (sizes.ranks - 1)) == 0;
  return isClusterSize && params.localRanks == sizes.ranks;
}

cudaError_t launchSmallPlan(const PlanParams &params, const OnePassCommon *signals, cudaStream_t stream) {
  if (signals == nullptr) return launchBlocks(planCluster, params, stream);
  return launchBlocks(planProcess, params, stream, *signals);
}

}  // namespace fusco::cuda
