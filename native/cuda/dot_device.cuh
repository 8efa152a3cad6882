// The dot product of a row of the output gradient and a row of the experts, in the order of weight gradients:
// 32 lanes, lane j adds elements j, j + 32, and so on. Rows are multiples of 16 bytes and aligned to them.
#pragma once

#include <type_traits>

#include "element_device.cuh"

namespace fusco::cuda {

// Loads of 16 bytes of each row that a thread has in flight.
constexpr uint32_t unitsInFlight = 8;
// A warp computes this many slots at a time, with `slotThreads` threads each. A thread has consecutive lanes
// of the dot product.
constexpr uint32_t slotsAtOnce = 8;
constexpr uint32_t slotThreads = warpLanes / slotsAtOnce;

template <class E, class Unit>
__device__ Unit encodeUnit(const float *values) {
  if constexpr (E::bytes == 4) {
    return Lanes<E, Unit>::encode(values);
  } else {
    constexpr uint32_t words = sizeof(Unit) / sizeof(uint32_t);
    uint32_t pairs[words];
#pragma unroll
    for (uint32_t i = 0; i < words; i++) pairs[i] = E::encodePair(values[2 * i], values[2 * i + 1]);
    Unit unit;
    memcpy(&unit, pairs, sizeof unit);
    return unit;
  }
}

// What a thread does for a slot, which has `threads`: its part of the rows `gradient` and `experts`, and, if
// the gradient is stored scaled by `weight`, of `to`. `inFlight`: units of each row that it loads at a time.
template <class E, bool isScaled, uint32_t threads = slotThreads, uint32_t inFlight = unitsInFlight>
struct SlotRows {
  static constexpr uint32_t threadLanes = dotLanes / threads;
  static constexpr uint32_t ownBytes = threadLanes * E::bytes;
  using Unit = std::conditional_t<ownBytes >= 16, uint4, std::conditional_t<ownBytes == 8, uint2, uint32_t>>;
  // Units of a row that belong to consecutive lanes of one thread, and of all threads of a slot.
  static constexpr uint32_t own = ownBytes / sizeof(Unit);
  static constexpr uint32_t stride = own * threads;
  static constexpr uint32_t steps = inFlight / own;
  static constexpr uint32_t perUnit = sizeof(Unit) / E::bytes;

  const Unit *gradient;
  const Unit *experts;
  Unit *to;
  float weight;
  float sum[threadLanes];

  // Calls f(unit of the row, step, number among the thread's units) for the units in flight.
  template <class F>
  __device__ static void each(uint32_t first, uint32_t units, F f) {
#pragma unroll
    for (uint32_t step = 0; step < steps; step++) {
#pragma unroll
      for (uint32_t i = 0; i < own; i++) {
        const uint32_t at = first + step * stride + i;
        if (at < units) f(at, step, i);
      }
    }
  }

  // All threads of a warp call this together: rows of different slots may overlap, as listDots says.
  __device__ void run(uint32_t units, bool isUsed, uint32_t thread) {
#pragma unroll
    for (float &lane : sum) lane = 0.0f;
    const uint32_t mine = isUsed ? units : 0;
    for (uint32_t begin = 0; begin < units; begin += steps * stride) {
      Unit a[steps][own];
      Unit b[steps][own];
      each(begin + thread * own, mine, [&](uint32_t at, uint32_t step, uint32_t i) {
        a[step][i] = gradient[at];
        b[step][i] = loadOnce(experts + at);
      });
      __syncwarp();
      each(begin + thread * own, mine, [&](uint32_t at, uint32_t step, uint32_t i) {
        float values[perUnit];
        float other[perUnit];
        Lanes<E, Unit>::decode(a[step][i], values);
        Lanes<E, Unit>::decode(b[step][i], other);
#pragma unroll
        for (uint32_t e = 0; e < perUnit; e++) {
          float &lane = sum[i * perUnit + e];
          lane = __fadd_rn(lane, __fmul_rn(values[e], other[e]));
          if constexpr (isScaled) values[e] = __fmul_rn(values[e], weight);
        }
        if constexpr (isScaled) storeOnce(to + at, encodeUnit<E, Unit>(values));
      });
    }
  }

  // The dot product, in the first thread of the slot: lanes are added at distance 16, 8, 4, 2, 1.
  __device__ float total() {
#pragma unroll
    for (uint32_t distance = threads / 2; distance >= 1; distance /= 2) {
#pragma unroll
      for (float &lane : sum) lane = __fadd_rn(lane, __shfl_down_sync(allLanes, lane, distance));
    }
#pragma unroll
    for (uint32_t distance = threadLanes / 2; distance >= 1; distance /= 2) {
#pragma unroll
      for (uint32_t i = 0; i < distance; i++) sum[i] = __fadd_rn(sum[i], sum[i + distance]);
    }
    return sum[0];
  }
};

}  // namespace fusco::cuda
