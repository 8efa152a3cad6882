#include "joined_tables.hpp"

namespace fusco::cuda {

namespace {

constexpr uint32_t joinThreads = 256;
constexpr uint32_t joinBlocks = 32;  // of one rank

// The grid's y dimension counts the device's ranks.
__global__ void __launch_bounds__(joinThreads) joinTables(const __grid_constant__ JoinParams params) {
  joinRank(params, blockIdx.y, blockIdx.x * uint64_t{blockDim.x} + threadIdx.x,
           gridDim.x * uint64_t{blockDim.x});
}

}  // namespace

cudaError_t launchJoin(const JoinParams &params, cudaStream_t stream) {
  joinTables<<<dim3(joinBlocks, params.localRanks), joinThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fusco::cuda
