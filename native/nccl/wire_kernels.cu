#include <algorithm>
#include <type_traits>

#include "access_unit.hpp"
#include "element_device.cuh"
#include "flag_device.cuh"
#include "plan_layout.h"
#include "wire_kernels.hpp"

namespace fusco::nccl {

using namespace fusco::cuda;

namespace {

constexpr uint32_t threads = rowThreads;
constexpr uint32_t lanes = warpLanes;
// Units that a warp moves of a row at a time: long rows are shared by several warps.
constexpr uint32_t unitsPerTurn = 4 * lanes;

// The number in its send order of row `at` of a ring segment.
__device__ inline uint32_t orderedRow(const Ranges &ranges, uint32_t at) {
  uint32_t i = 0;
  while (i + 1 < ranges.count && ranges.range[i + 1].at <= at) i++;
  return ranges.range[i].first + (at - ranges.range[i].at);
}

FUSCO_ON_BOTH inline uint32_t turnsOf(uint64_t units) {
  return static_cast<uint32_t>((units + unitsPerTurn - 1) / unitsPerTurn);
}

// Calls `move(row, first)` for the parts of all rows, a warp for each part: `first` is the lane's first unit,
// the next ones are `lanes` apart.
template <class F>
__device__ void forEachPart(uint32_t rows, uint64_t units, F move) {
  const uint32_t turns = turnsOf(units);
  const uint64_t warps = gridDim.x * uint64_t{blockDim.x} / lanes;
  const uint64_t warp = (blockIdx.x * uint64_t{blockDim.x} + threadIdx.x) / lanes;
  for (uint64_t work = warp; work < uint64_t{rows} * turns; work += warps) {
    move(static_cast<uint32_t>(work / turns), work % turns * unitsPerTurn + threadIdx.x % lanes);
  }
}

// Stands for the element type where rows are moved without a weight.
struct Unscaled {};
template <class E>
constexpr bool isScaled = !std::is_same_v<E, Unscaled>;

// A unit of a row as it is stored: one element of E times its weight, or the unit itself.
template <class E, class Unit>
__device__ Unit scaled(Unit unit, [[maybe_unused]] float weight) {
  if constexpr (isScaled<E>) {
    return E::encode(__fmul_rn(E::decode(unit), weight));
  } else {
    return unit;
  }
}

// Calls f(Unit{}, E{}) with the types by which rows are moved.
template <class F>
__device__ void withMove(const MovedRows &p, F f) {
  if (p.scale == nullptr) {
    withUnit(p.unit, [&](auto unit) { f(unit, Unscaled{}); });
  } else {
    withElement(p.dtype, [&](auto element) { f(typename decltype(element)::Bits{}, element); });
  }
}

template <class Unit, class E>
__device__ void packRows(const PackParams &p, Unit, E) {
  const uint64_t units = p.rowBytes / sizeof(Unit);
  forEachPart(p.ranges.rows, units, [&](uint32_t row, uint64_t first) {
    const uint32_t entry = p.index[orderedRow(p.ranges, row)];
    const float weight = isScaled<E> ? p.scale[entry] : 1.0f;
    const auto *from = reinterpret_cast<const Unit *>(p.from + uint64_t{entry / p.divide} * p.rowBytes);
    auto *to = reinterpret_cast<Unit *>(p.to + row * p.rowBytes);
#pragma unroll
    for (uint32_t i = 0; i < unitsPerTurn; i += lanes) {
      if (first + i < units) to[first + i] = scaled<E>(loadOnce(from + first + i), weight);
    }
  });
}

__global__ void __launch_bounds__(threads) pack(const __grid_constant__ PackParams p) {
  withMove(p, [&](auto unit, auto element) { packRows(p, unit, element); });
}

__global__ void __launch_bounds__(threads) packOrigins(const __grid_constant__ OriginParams p) {
  for (uint32_t row = blockIdx.x * blockDim.x + threadIdx.x; row < p.ranges.rows;
       row += gridDim.x * blockDim.x) {
    const uint32_t entry = p.index[orderedRow(p.ranges, row)];
    auto *to = reinterpret_cast<int32_t *>(p.to) + originWords * uint64_t{row};
    writeOrigin(to, p.rank, entry / p.topk, entry % p.topk);
  }
}

// Where a landed row goes.
struct Places {
  const ScatterParams &p;
  uint32_t first;
  uint32_t count;

  __device__ Places(const ScatterParams &params, uint32_t landed) : p(params) {
    first = p.slot != nullptr ? landed : p.offset[landed];
    count = p.slot != nullptr ? 1 : p.offset[landed + 1] - first;
  }
  __device__ Place at(uint32_t i) const {
    return p.slot != nullptr ? Place{p.self, static_cast<int32_t>(p.slot[first])} : p.places[first + i];
  }
};

template <class Unit, class E>
__device__ void scatterRows(const ScatterParams &p, Unit, E) {
  const uint64_t units = p.rowBytes / sizeof(Unit);
  forEachPart(p.ranges.rows, units, [&](uint32_t row, uint64_t first) {
    const uint32_t number = orderedRow(p.ranges, row);
    const uint64_t source = p.index != nullptr ? p.index[number] : row;
    const auto *from = reinterpret_cast<const Unit *>(p.from + source * p.rowBytes);
    Unit held[unitsPerTurn / lanes];
#pragma unroll
    for (uint32_t i = 0; i < unitsPerTurn / lanes; i++) {
      if (first + i * lanes < units) held[i] = loadOnce(from + first + i * lanes);
    }
    const Places places(p, number);
    for (uint32_t i = 0; i < places.count; i++) {
      const Place place = places.at(i);
      const float weight = isScaled<E> ? p.scale[places.first + i] : 1.0f;
      auto *to = reinterpret_cast<Unit *>(p.to[place.peer] + static_cast<uint64_t>(place.row) * p.rowBytes);
#pragma unroll
      for (uint32_t j = 0; j < unitsPerTurn / lanes; j++) {
        if (first + j * lanes < units) storeOnce(to + first + j * lanes, scaled<E>(held[j], weight));
      }
    }
  });
}

__global__ void __launch_bounds__(threads) scatter(const __grid_constant__ ScatterParams p) {
  withMove(p, [&](auto unit, auto element) { scatterRows(p, unit, element); });
}

constexpr uint32_t maxTerms = FUSCO_MAX_TOPK;

struct HeldTerm {
  const uint8_t *row;
  float weight;
  uint32_t flags;
};

// A vector of float32 as wide as one of E in Unit bytes.
template <class E, class Unit>
__device__ void loadFloats(const uint8_t *row, uint64_t at, float *values) {
  constexpr uint32_t count = Lanes<E, Unit>::count;
  const auto *from = reinterpret_cast<const float *>(row) + at * count;
#pragma unroll
  for (uint32_t i = 0; i < count; i++) values[i] = __ldcs(from + i);
}

template <class E, class Unit, Tree tree>
__device__ void addTerm(const HeldTerm &term, const Unit &unit, bool weighted, uint64_t at, float *sum,
                        float *partial) {
  using L = Lanes<E, Unit>;
  float values[L::count];
  const bool finished = tree != Tree::none && (term.flags & isPartial) != 0;
  if (tree == Tree::kept && finished) {
    loadFloats<E, Unit>(term.row, at, values);
  } else {
    L::decode(unit, values);
  }
  float *into = tree == Tree::none || finished ? sum : partial;
  addWeighted<L::count>(into, values, weighted && !finished, term.weight);
  if (tree != Tree::none && !finished && (term.flags & closesNode) != 0) {
    closeNode<L>(sum, partial, tree == Tree::rounded);
  }
}

// Loads are issued several at a time before any is waited for.
template <class E, class Unit, Tree tree>
__device__ void addUp(const HeldTerm *terms, uint32_t count, bool weighted, uint64_t at, float *sum) {
  float partial[Lanes<E, Unit>::count] = {};
  for (uint32_t first = 0; first < count; first += inFlight) {
    Unit rows[inFlight];
#pragma unroll
    for (uint32_t j = 0; j < inFlight; j++) {
      // A partial sum in float32 is wider: it is loaded when it is added.
      if (first + j >= count || (tree == Tree::kept && (terms[first + j].flags & isPartial) != 0)) continue;
      rows[j] = loadOnce(reinterpret_cast<const Unit *>(terms[first + j].row) + at);
    }
#pragma unroll
    for (uint32_t j = 0; j < inFlight; j++) {
      if (first + j < count) addTerm<E, Unit, tree>(terms[first + j], rows[j], weighted, at, sum, partial);
    }
  }
}

// A block for each sum.
template <class E, class Unit, Tree tree, bool f32Out>
__global__ void addRows(const __grid_constant__ SumParams p) {
  using L = Lanes<E, Unit>;
  __shared__ HeldTerm terms[maxTerms];
  const uint32_t row = blockIdx.x;
  const uint32_t number = orderedRow(p.ranges, row);
  const uint32_t first = p.offset[number];
  const uint32_t count = min(p.offset[number + 1] - first, maxTerms);
  const bool weighted = p.weights != nullptr;
  for (uint32_t t = threadIdx.x; t < count; t += blockDim.x) {
    const SumTerm term = p.terms[first + t];
    const uint64_t stride = term.peer == landingPeer ? p.landingRowBytes : p.rowBytes;
    const float weight = weighted && (term.flags & isPartial) == 0 ? p.weights[term.weight] : 0.0f;
    terms[t] = {p.from[term.peer] + term.row * stride, weight, term.flags};
  }
  __syncthreads();
  const uint64_t units = p.rowBytes / sizeof(Unit);
  for (uint64_t at = threadIdx.x; at < units; at += blockDim.x) {
    float sum[L::count] = {};
    addUp<E, Unit, tree>(terms, count, weighted, at, sum);
    if (f32Out) {
      auto *to = reinterpret_cast<uint32_t *>(p.to + row * (units * L::count * sizeof(float)));
#pragma unroll
      for (uint32_t i = 0; i < L::count; i++) to[at * L::count + i] = DeviceF32::encode(sum[i]);
    } else {
      storeOnce(reinterpret_cast<Unit *>(p.to + row * p.rowBytes) + at, L::encode(sum));
    }
  }
}

using SumKernel = void (*)(SumParams);

template <class E, class Unit>
SumKernel sumKernel(const SumLaunch &launch) {
  if (launch.output == SumOutput::f32) return addRows<E, Unit, Tree::none, true>;
  if (launch.tree == Tree::none) return addRows<E, Unit, Tree::none, false>;
  return launch.tree == Tree::kept ? addRows<E, Unit, Tree::kept, false>
                                   : addRows<E, Unit, Tree::rounded, false>;
}

__global__ void flags(const __grid_constant__ FlagParams p) {
  const uint32_t peer = threadIdx.x;
  if (peer >= p.neighbors || peer == p.self) return;
  storeRelease(p.theirs[peer], p.epoch);
  const volatile uint32_t *abort = p.abort;
  while (loadAcquire(p.local + peer) < p.epoch && *abort == 0) __nanosleep(200);
}

// Two blocks for each SM of the largest devices: enough to keep memory busy, and NCCL's kernels, which run at
// the same time, find room.
constexpr uint64_t mostBlocks = 264;

uint32_t blocksFor(const MovedRows &params) {
  const uint64_t warps = uint64_t{params.ranges.rows} * turnsOf(params.rowBytes / params.unit);
  return static_cast<uint32_t>(std::clamp<uint64_t>((warps * lanes + threads - 1) / threads, 1, mostBlocks));
}

}  // namespace

cudaError_t launchPack(const PackParams &params, cudaStream_t stream) {
  if (params.ranges.rows == 0) return cudaSuccess;
  pack<<<blocksFor(params), threads, 0, stream>>>(params);
  return cudaGetLastError();
}

cudaError_t launchOrigins(const OriginParams &params, cudaStream_t stream) {
  if (params.ranges.rows == 0) return cudaSuccess;
  packOrigins<<<(params.ranges.rows + threads - 1) / threads, threads, 0, stream>>>(params);
  return cudaGetLastError();
}

cudaError_t launchScatter(const ScatterParams &params, cudaStream_t stream) {
  if (params.ranges.rows == 0) return cudaSuccess;
  scatter<<<blocksFor(params), threads, 0, stream>>>(params);
  return cudaGetLastError();
}

cudaError_t launchSums(const SumParams &params, const SumLaunch &launch, cudaStream_t stream) {
  if (params.ranges.rows == 0) return cudaSuccess;
  const bool wide = launch.unit == wideUnit;
  const SumKernel kernel = forElement(launch.dtype, [&](auto element) {
    using E = decltype(element);
    return wide ? sumKernel<E, uint4>(launch) : sumKernel<E, typename E::Bits>(launch);
  });
  const uint32_t elementUnit =
      forElement(launch.dtype, [](auto element) { return decltype(element)::bytes; });
  const uint64_t units = params.rowBytes / (wide ? wideUnit : elementUnit);
  kernel<<<params.ranges.rows, threadsOverRow(units), 0, stream>>>(params);
  return cudaGetLastError();
}

cudaError_t launchFlags(const FlagParams &params, cudaStream_t stream) {
  constexpr uint32_t flagThreads = 64;
  static_assert(flagThreads >= maxNeighbors, "a thread for each neighbor");
  flags<<<1, flagThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fusco::nccl
