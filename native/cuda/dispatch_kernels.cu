#include "exchange_launch.hpp"
#include "move_device.cuh"
#include "tma_device.cuh"

namespace fusco::cuda {

namespace {

constexpr uint32_t tmaBlockThreads = 128;
// Bytes of shared memory that the system keeps of every block.
constexpr uint32_t reservedShared = 1024;
constexpr uint32_t rowAlign = 128;

// The tiling of TMA dispatches. Four rows of 14 KiB make a tile. docs/performance-cuda.md has what dispatches
// with it reach (94.3 to 94.7 % of a copy); its table of kernels has one and two blocks of an SM only.
constexpr uint32_t tileBytes = 60 * 1024;
constexpr uint32_t tmaBlocksPerSm = 3;
constexpr uint32_t storeGroups = 3;

// The first warp moves tiles by TMA, the others do everything else.
__global__ void __launch_bounds__(tmaBlockThreads) dispatchByTma(const __grid_constant__ DispatchParams p) {
  extern __shared__ __align__(rowAlign) uint8_t rows[];
  __shared__ TileState state;
  numberTiles(state, p.plan.head, p.tiling.rows);
  if (threadIdx.x == 0) {
    barrierInit(&state.arrived);
    barrierInitFence();
  }
  __syncthreads();
  if (threadIdx.x >= warpLanes) {
    const uint64_t others = tmaBlockThreads - warpLanes;
    moveRemaining(p, {blockIdx.x * others + threadIdx.x - warpLanes, gridDim.x * others});
    return;
  }
  TileMover mover(p, state, rows);
  for (uint32_t i = 0; i < p.leading; i++) mover.movePayload(i);
  // The last block to leave clears the counters for the next launch.
  if (threadIdx.x == 0 && atomicInc(&p.barrier[1], gridDim.x - 1) == gridDim.x - 1) {
    atomicExch(&p.barrier[0], 0u);
  }
}

__global__ void __launch_bounds__(rowThreads) dispatchByThreads(const __grid_constant__ DispatchParams p) {
  moveRemaining(p, {blockIdx.x * uint64_t{rowThreads} + threadIdx.x, gridDim.x * uint64_t{rowThreads}});
}

// Each copy is scaled by the weight of its entry.
template <class E, class Unit>
__device__ void scaleTokens(const DispatchParams &p, const Payload &payload, Crew crew) {
  using L = Lanes<E, Unit>;
  const uint32_t topk = p.plan.head->topk;
  storeTokens<Unit>(p, payload, crew, [&](Unit unit, TokenRow row) {
    float values[L::count];
    L::decode(unit, values);
    return [values, scale = p.scale[row.rank] + row.row * topk](uint32_t k) {
      float scaled[L::count];
#pragma unroll
      for (uint32_t i = 0; i < L::count; i++) scaled[i] = __fmul_rn(values[i], scale[k]);
      return L::encode(scaled);
    };
  });
}

template <class E>
__device__ void scalePayload(const DispatchParams &p, const Payload &payload, Crew crew) {
  if (payload.unit == wideUnit) {
    scaleTokens<E, uint4>(p, payload, crew);
  } else {
    scaleTokens<E, typename E::Bits>(p, payload, crew);
  }
}

// Per-token payloads come first, `leading` of them.
__global__ void __launch_bounds__(rowThreads) dispatchScaled(const __grid_constant__ DispatchParams p) {
  if (isGivenUp(p.peers)) return;
  const Crew crew = {blockIdx.x * uint64_t{rowThreads} + threadIdx.x, gridDim.x * uint64_t{rowThreads}};
  for (uint32_t i = 0; i < p.leading; i++) {
    const Payload &payload = p.payload[i];
    withElement(payload.dtype, [&](auto element) { scalePayload<decltype(element)>(p, payload, crew); });
  }
  moveRemaining(p, crew);
}

uint32_t rowBlocks(const DeviceLimits &limits) { return limits.sms * rowBlocksPerSm; }

uint64_t dynamicBytes(const Tiling &tiling, uint32_t chunkBytes) {
  return static_cast<uint64_t>(tiling.rows) * chunkBytes;
}

// Whether blocks with this tiling fit the device.
bool tilingFits(const DeviceLimits &limits, const Tiling &tiling, uint32_t topk, uint32_t chunkBytes) {
  if (tiling.rows < 1 || tiling.rows > maxTileRows || tiling.rows * topk > maxTileEntries) return false;
  const uint64_t bytes = dynamicBytes(tiling, chunkBytes) + sizeof(TileState) + rowAlign;
  return bytes <= limits.sharedBytes &&
         (bytes + reservedShared) * tiling.blocksPerSm <= limits.sharedBytesPerSm;
}

}  // namespace

uint32_t chunkOf(uint64_t rowBytes) {
  if (rowBytes <= maxChunk) return static_cast<uint32_t>(rowBytes);
  const uint64_t pieces = (rowBytes + maxChunk - 1) / maxChunk;
  return static_cast<uint32_t>((rowBytes / pieces + minChunk - 1) / minChunk * minChunk);
}

Tiling chooseTiling(const DeviceLimits &limits, uint32_t topk, uint32_t chunkBytes, uint32_t planTile) {
  Tiling tiling;
  tiling.blocksPerSm = tmaBlocksPerSm;
  tiling.groups = storeGroups;
  tiling.rows = planTile;
  if (planTile > 0 && tilingFits(limits, tiling, topk, chunkBytes)) return tiling;
  const uint32_t byOrder = maxTileEntries / topk;
  const uint32_t byBytes = tileBytes / chunkBytes;
  tiling.rows = byOrder < byBytes ? byOrder : byBytes;
  if (tiling.rows > maxTileRows) tiling.rows = maxTileRows;
  if (tiling.rows < 1) tiling.rows = 1;
  return tiling;
}

cudaError_t launchDispatch(const DispatchParams &params, const DeviceLimits &limits, cudaStream_t stream) {
  if (params.leading == 0) {
    dispatchByThreads<<<rowBlocks(limits), rowThreads, 0, stream>>>(params);
    return cudaGetLastError();
  }
  uint32_t chunk = 0;
  for (uint32_t i = 0; i < params.leading; i++)
    chunk = params.chunkBytes[i] > chunk ? params.chunkBytes[i] : chunk;
  const auto shared = static_cast<uint32_t>(dynamicBytes(params.tiling, chunk));
  const cudaError_t error = cudaFuncSetAttribute(dispatchByTma, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(shared));
  if (error != cudaSuccess) return error;
  dispatchByTma<<<limits.sms * params.tiling.blocksPerSm, tmaBlockThreads, shared, stream>>>(params);
  return cudaGetLastError();
}

cudaError_t launchScaled(const DispatchParams &params, const DeviceLimits &limits, cudaStream_t stream) {
  dispatchScaled<<<rowBlocks(limits), rowThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fusco::cuda
