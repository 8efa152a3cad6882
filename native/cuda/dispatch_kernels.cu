#include "exchange_launch.hpp"
#include "move_device.cuh"
#include "tma_device.cuh"

namespace fusco::cuda {

namespace {

constexpr uint32_t tileThreads = 128;
constexpr uint32_t sideThreads = 256;
// Shared memory that the system keeps of every block.
constexpr uint32_t reservedShared = 1024;
constexpr uint32_t rowAlign = 128;

// The first warp moves tiles, the others do everything else.
__global__ void __launch_bounds__(tileThreads) dispatchTiles(const __grid_constant__ DispatchParams p) {
  extern __shared__ __align__(rowAlign) uint8_t rows[];
  __shared__ TileState state;
  layTiles(state, p.plan.head, p.tiling.rows);
  if (threadIdx.x == 0) {
    barrierInit(&state.arrived);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x >= 32) {
    const uint64_t others = tileThreads - 32;
    copySides(p, {blockIdx.x * others + threadIdx.x - 32, gridDim.x * others});
    return;
  }
  TileMover mover(p, state, rows);
  for (uint32_t i = 0; i < p.bulk; i++) mover.movePayload(i);
  // The last block to leave clears the counters for the next launch.
  if (threadIdx.x == 0 && p.tiling.meet != 0) {
    if (atomicInc(&p.meeting[1], gridDim.x - 1) == gridDim.x - 1) atomicExch(&p.meeting[0], 0u);
  }
}

__global__ void __launch_bounds__(sideThreads) dispatchSides(const __grid_constant__ DispatchParams p) {
  copySides(p, {blockIdx.x * uint64_t{sideThreads} + threadIdx.x, gridDim.x * uint64_t{sideThreads}});
}

template <class E, class Unit>
__device__ void scaleTokens(const DispatchParams &p, const Payload &payload, Crew crew) {
  using L = Lanes<E, Unit>;
  const DevicePlanHead *head = p.plan.head;
  const uint64_t units = payload.rowBytes / sizeof(Unit);
  const uint32_t topk = head->topk;
  for (uint64_t token = crew.index / 32; token < head->tokens; token += crew.count / 32) {
    const uint32_t local = localOf(head, static_cast<uint32_t>(token));
    const uint32_t rank = head->rankOf[local];
    const uint64_t row = token - head->tokenStart[local];
    const Unit *from = reinterpret_cast<const Unit *>(payload.from[rank] + row * payload.rowBytes);
    const float *scale = p.scale[rank] + row * topk;
    for (uint64_t at = crew.index % 32; at < units; at += 32) {
      float values[L::count];
      float scaled[L::count];
      L::decode(loadOnce(from + at), values);
      for (uint32_t k = 0; k < topk; k++) {
        const Place place = p.plan.place[token * topk + k];
        if (place.row < 0) continue;
        const float weight = scale[k];
#pragma unroll
        for (uint32_t i = 0; i < L::count; i++) scaled[i] = __fmul_rn(values[i], weight);
        uint8_t *to = payload.to[place.peer] + static_cast<uint64_t>(place.row) * payload.rowBytes;
        storeOnce(reinterpret_cast<Unit *>(to) + at, L::encode(scaled));
      }
    }
  }
}

template <class E>
__device__ void scalePayload(const DispatchParams &p, const Payload &payload, Crew crew) {
  if (payload.unit == 16) {
    scaleTokens<E, uint4>(p, payload, crew);
  } else {
    scaleTokens<E, typename E::Bits>(p, payload, crew);
  }
}

// Per-token payloads come first, `bulk` of them.
__global__ void __launch_bounds__(sideThreads) dispatchScaled(const __grid_constant__ DispatchParams p) {
  const Crew crew = {blockIdx.x * uint64_t{sideThreads} + threadIdx.x, gridDim.x * uint64_t{sideThreads}};
  for (uint32_t i = 0; i < p.bulk; i++) {
    const Payload &payload = p.payload[i];
    if (payload.dtype == FUSCO_DTYPE_F32) {
      scalePayload<DeviceF32>(p, payload, crew);
    } else if (payload.dtype == FUSCO_DTYPE_F16) {
      scalePayload<DeviceF16>(p, payload, crew);
    } else {
      scalePayload<DeviceBf16>(p, payload, crew);
    }
  }
  copySides(p, crew);
}

template <class Unit>
__device__ void spreadRows(const DispatchParams &p, const Payload &payload, Crew crew) {
  const uint64_t units = payload.rowBytes / sizeof(Unit);
  for (uint64_t i = crew.index / 32; i < p.plan.head->landed; i += crew.count / 32) {
    const Landed landed = p.plan.landed[i];
    const uint8_t *row = payload.to[landed.at.peer] + static_cast<uint64_t>(landed.at.row) * payload.rowBytes;
    const Place *places = p.plan.forwardPlace + landed.firstPlace;
    for (uint64_t at = crew.index % 32; at < units; at += 32) {
      const Unit value = reinterpret_cast<const Unit *>(row)[at];
      for (uint32_t k = 0; k < landed.places; k++) {
        uint8_t *to = payload.to[places[k].peer] + static_cast<uint64_t>(places[k].row) * payload.rowBytes;
        storeOnce(reinterpret_cast<Unit *>(to) + at, value);
      }
    }
  }
}

__global__ void __launch_bounds__(sideThreads) spreadLanded(const __grid_constant__ DispatchParams p) {
  const Crew crew = {blockIdx.x * uint64_t{sideThreads} + threadIdx.x, gridDim.x * uint64_t{sideThreads}};
  for (uint32_t i = 0; i < p.payloads; i++) {
    const Payload &payload = p.payload[i];
    if (payload.perEntry != 0) continue;
    switch (payload.unit) {
      case 16:
        spreadRows<uint4>(p, payload, crew);
        break;
      case 8:
        spreadRows<uint2>(p, payload, crew);
        break;
      case 4:
        spreadRows<uint32_t>(p, payload, crew);
        break;
      case 2:
        spreadRows<uint16_t>(p, payload, crew);
        break;
      default:
        spreadRows<uint8_t>(p, payload, crew);
    }
  }
}

uint32_t sideBlocks(const DeviceLimits &limits) { return limits.sms * 8; }

uint64_t dynamicBytes(const Tiling &tiling, uint32_t chunkBytes) {
  return static_cast<uint64_t>(tiling.rows) * chunkBytes;
}

}  // namespace

uint32_t chunkOf(uint64_t rowBytes) {
  constexpr uint64_t most = 16384;
  if (rowBytes <= most) return static_cast<uint32_t>(rowBytes);
  const uint64_t pieces = (rowBytes + most - 1) / most;
  return static_cast<uint32_t>((rowBytes / pieces + 15) / 16 * 16);
}

Tiling chooseTiling(const DeviceLimits &limits, uint32_t topk, uint32_t chunkBytes, uint32_t planTile) {
  // Three blocks a multiprocessor with 56 KiB of rows each: docs/performance-cuda.md has the figures.
  constexpr uint32_t tileBytes = 61440;
  Tiling tiling;
  tiling.blocksPerSm = 3;
  tiling.groups = 3;
  tiling.rows = planTile;
  if (planTile > 0 && tilingFits(limits, tiling, topk, chunkBytes)) return tiling;
  const uint32_t byOrder = maxTileEntries / topk;
  const uint32_t byBytes = tileBytes / chunkBytes;
  tiling.rows = byOrder < byBytes ? byOrder : byBytes;
  if (tiling.rows > maxTileRows) tiling.rows = maxTileRows;
  if (tiling.rows < 1) tiling.rows = 1;
  return tiling;
}

bool tilingFits(const DeviceLimits &limits, const Tiling &tiling, uint32_t topk, uint32_t chunkBytes) {
  if (tiling.rows < 1 || tiling.rows > maxTileRows || tiling.rows * topk > maxTileEntries) return false;
  if (tiling.blocksPerSm < 1 || tiling.groups < 1) return false;
  const uint64_t bytes = dynamicBytes(tiling, chunkBytes) + sizeof(TileState) + rowAlign;
  return bytes <= limits.sharedBytes &&
         (bytes + reservedShared) * tiling.blocksPerSm <= limits.sharedBytesPerSm;
}

cudaError_t launchDispatch(const DispatchParams &params, const DeviceLimits &limits, cudaStream_t stream) {
  if (params.bulk == 0) {
    dispatchSides<<<sideBlocks(limits), sideThreads, 0, stream>>>(params);
    return cudaGetLastError();
  }
  uint32_t chunk = 0;
  for (uint32_t i = 0; i < params.bulk; i++)
    chunk = params.chunkBytes[i] > chunk ? params.chunkBytes[i] : chunk;
  const auto shared = static_cast<uint32_t>(dynamicBytes(params.tiling, chunk));
  const cudaError_t error = cudaFuncSetAttribute(dispatchTiles, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(shared));
  if (error != cudaSuccess) return error;
  dispatchTiles<<<limits.sms * params.tiling.blocksPerSm, tileThreads, shared, stream>>>(params);
  return cudaGetLastError();
}

cudaError_t launchScaled(const DispatchParams &params, const DeviceLimits &limits, cudaStream_t stream) {
  dispatchScaled<<<sideBlocks(limits), sideThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

cudaError_t launchSpread(const DispatchParams &params, const DeviceLimits &limits, cudaStream_t stream) {
  spreadLanded<<<sideBlocks(limits), sideThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fusco::cuda
