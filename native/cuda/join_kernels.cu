#include "joined_tables.hpp"

namespace fusco::cuda {

namespace {

constexpr uint32_t joinThreads = 256;
constexpr uint32_t joinBlocks = 32;  // of one rank

template <class T>
__device__ void copyTable(T *to, const T *from, uint64_t count) {
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < count;
       i += gridDim.x * uint64_t{blockDim.x}) {
    to[i] = from[i];
  }
}

__device__ PlanBuffer bufferOf(const JoinParams &params, uint32_t local) {
  PlanBuffer buffer;
  layPlanBuffer(params.sizes, params.buffers[local], buffer);
  return buffer;
}

// The heads and the padding, by the first block of every rank: `start` is the rank's first token on the
// device.
__device__ void joinHeads(const JoinParams &params, const PlanBuffer &own, uint32_t local, uint32_t start) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t rank = params.rankOf[local];
  const bool isLast = local == params.localRanks - 1;
  uint32_t before = 0;
  for (uint32_t other = 0; other < local; other++) before += bufferOf(params, other).head->paddings;
  const uint32_t paddings = own.head->paddings;
  for (uint32_t i = threadIdx.x; i < paddings; i += blockDim.x) params.paddings[before + i] = own.paddings[i];
  if (threadIdx.x == 0) {
    layDeviceRank(*params.head, local, rank, start);
    if (isLast) {
      layDeviceHead(*params.head, sizes, params.localRanks, start + own.tokens[rank], before + paddings);
    }
  }
  if (params.hasOthers == 0) return;
  if (threadIdx.x == 0) layOnePassRank(*params.onePass, sizes, params.local, rank, start, own.tokens[rank]);
  if (!isLast) return;
  uint32_t most = 0;
  for (uint32_t of = 0; of < sizes.ranks; of++) {
    const uint32_t tokens = own.tokens[of];
    most = tokens > most ? tokens : most;
    if (threadIdx.x == of % blockDim.x && !params.local.has(of)) {
      layOnePassRank(*params.onePass, sizes, params.local, of, 0, tokens);
    }
  }
  if (threadIdx.x == 0) layOnePassSizes(*params.onePass, sizes, params.local, most);
}

// The grid's y dimension counts the device's ranks.
__global__ void __launch_bounds__(joinThreads) joinTables(const __grid_constant__ JoinParams params) {
  const PlanSizes &sizes = params.sizes;
  const uint32_t local = blockIdx.y;
  const PlanBuffer own = bufferOf(params, local);
  uint32_t start = 0;
  for (uint32_t other = 0; other < local; other++) start += own.tokens[params.rankOf[other]];
  const uint64_t first = uint64_t{start} * sizes.topk;
  const uint64_t entries = uint64_t{own.tokens[params.rankOf[local]]} * sizes.topk;
  copyTable(params.place + first, own.place, entries);
  if (blockIdx.x == 0) joinHeads(params, own, local, start);
  if (params.hasOthers == 0) return;
  copyTable(params.send + first, own.send, entries);
  copyTable(params.terms + first, own.terms, entries);
  const uint64_t capacity = uint64_t{sizes.ranks - params.localRanks} * sizes.maxTokens;
  for (uint32_t from = 0; from < sizes.ranks; from++) {
    if (params.local.has(from)) continue;
    const uint64_t at = arrivalStart(sizes, params.local, from);
    const uint64_t to = local * capacity + at;
    const uint32_t tokens = own.tokens[from];
    copyTable(params.arrival + to * sizes.topk, own.arrival + at * sizes.topk, uint64_t{tokens} * sizes.topk);
    copyTable(params.arrivalRow + to, own.arrivalRow + at, tokens);
  }
}

}  // namespace

cudaError_t launchJoin(const JoinParams &params, cudaStream_t stream) {
  joinTables<<<dim3(joinBlocks, params.localRanks), joinThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fusco::cuda
