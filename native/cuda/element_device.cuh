// Device code that several kernels use: elements of each dtype, vectors of them, the choice of both, and
// origins.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "device_tables.hpp"

namespace fusco::cuda {

constexpr uint32_t warpLanes = 32;
constexpr uint32_t allLanes = 0xffffffffu;
// Bytes of the widest access of a thread.
constexpr uint32_t wideUnit = 16;
// Threads of a block that works on rows, and such blocks of an SM.
constexpr uint32_t rowThreads = 256;
constexpr uint32_t rowBlocksPerSm = 8;
constexpr uint32_t threadsPerSm = rowThreads * rowBlocksPerSm;

// Threads of a block that goes over `units` in whole rounds where their number allows it: whole warps, at
// most rowThreads.
inline uint32_t threadsOverRow(uint64_t units) {
  const uint64_t rounds = (units + rowThreads - 1) / rowThreads;
  return static_cast<uint32_t>(((units + rounds - 1) / rounds + warpLanes - 1) / warpLanes * warpLanes);
}

// Local index of the rank of token `token`, counted over the local ranks.
__device__ inline uint32_t localOf(const DevicePlanHead *head, uint32_t token) {
  uint32_t low = 0;
  uint32_t high = head->localRanks;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (head->tokenStart[middle] <= token) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// A token: the number of its rank in the tables of pointers, and its row there.
struct TokenRow {
  uint32_t rank;
  uint64_t row;
};

__device__ inline TokenRow tokenRow(const DevicePlanHead *head, uint32_t token) {
  const uint32_t local = localOf(head, token);
  return {head->rankOf[local], token - head->tokenStart[local]};
}

// Rows are read once: they should not push out what is read again.
template <class Unit>
__device__ inline Unit loadOnce(const Unit *at) {
  return __ldcs(at);
}

template <class Unit>
__device__ inline void storeOnce(Unit *at, Unit value) {
  __stcs(at, value);
}

struct DeviceF32 {
  static constexpr uint32_t bytes = 4;
  using Bits = uint32_t;
  __device__ static float decode(Bits bits) { return __uint_as_float(bits); }
  __device__ static Bits encode(float value) { return value != value ? 0x7fc00000u : __float_as_uint(value); }
};

// The bits of two elements, with `nans` where an element is a NaN.
template <class Pair>
__device__ inline uint32_t canonical(const Pair &pair, uint32_t nans) {
  const uint32_t isNan = __hneu2_mask(pair, pair);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return (bits & ~isNan) | (nans & isNan);
}

struct DeviceF16 {
  static constexpr uint32_t bytes = 2;
  using Bits = uint16_t;
  __device__ static float decode(Bits bits) { return __half2float(__ushort_as_half(bits)); }
  __device__ static Bits encode(float value) {
    return value != value ? Bits{0x7e00} : __half_as_ushort(__float2half_rn(value));
  }
  // Two elements, the first in the lower half.
  __device__ static uint32_t encodePair(float first, float second) {
    return canonical(__floats2half2_rn(first, second), 0x7e007e00u);
  }
};

struct DeviceBf16 {
  static constexpr uint32_t bytes = 2;
  using Bits = uint16_t;
  __device__ static float decode(Bits bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
  __device__ static Bits encode(float value) {
    return value != value ? Bits{0x7fc0} : __bfloat16_as_ushort(__float2bfloat16_rn(value));
  }
  __device__ static uint32_t encodePair(float first, float second) {
    return canonical(__floats2bfloat162_rn(first, second), 0x7fc07fc0u);
  }
};

// A vector of `E` in `Unit` bytes, as float32.
template <class E, class Unit>
struct Lanes {
  static constexpr uint32_t count = sizeof(Unit) / E::bytes;
  union Overlay {
    Unit unit;
    typename E::Bits bits[count];
  };
  __device__ static void decode(const Unit &unit, float *out) {
    Overlay overlay;
    overlay.unit = unit;
#pragma unroll
    for (uint32_t i = 0; i < count; i++) out[i] = E::decode(overlay.bits[i]);
  }
  __device__ static Unit encode(const float *values) {
    Overlay overlay;
#pragma unroll
    for (uint32_t i = 0; i < count; i++) overlay.bits[i] = E::encode(values[i]);
    return overlay.unit;
  }
};

// Loads that a thread has in flight while it adds rows.
constexpr uint32_t inFlight = 8;

// sum = sum + weight * values, or sum + values. Multiply, round, add, round: the intrinsics are never
// contracted.
template <uint32_t count>
__device__ inline void addWeighted(float *sum, const float *values, bool isWeighted, float weight) {
#pragma unroll
  for (uint32_t i = 0; i < count; i++) {
    sum[i] = __fadd_rn(sum[i], isWeighted ? __fmul_rn(weight, values[i]) : values[i]);
  }
}

// Adds a node's partial sum, `L::count` values, to the total and starts the next one. `rounded`: to the
// elements of L first.
template <class L>
__device__ void closeNode(float *sum, float *partial, bool rounded) {
  if (rounded) {
    typename L::Overlay overlay;
    overlay.unit = L::encode(partial);
    L::decode(overlay.unit, partial);
  }
#pragma unroll
  for (uint32_t i = 0; i < L::count; i++) {
    sum[i] = __fadd_rn(sum[i], partial[i]);
    partial[i] = 0.0f;
  }
}

// Calls f(Unit{}) with the type of an access of `unit` bytes.
template <class F>
__device__ inline void withUnit(uint32_t unit, F f) {
  if (unit == 16) return f(uint4{});
  if (unit == 8) return f(uint2{});
  if (unit == 4) return f(uint32_t{});
  if (unit == 2) return f(uint16_t{});
  return f(uint8_t{});
}

// Calls f(E{}) with the element type of a dtype that can be computed with, in a kernel.
template <class F>
__device__ inline void withElement(uint32_t dtype, F f) {
  if (dtype == FUSCO_DTYPE_F32) return f(DeviceF32{});
  if (dtype == FUSCO_DTYPE_F16) return f(DeviceF16{});
  return f(DeviceBf16{});
}

// The same on the host: returns what f(E{}) returns.
template <class F>
auto forElement(uint32_t dtype, F f) {
  if (dtype == FUSCO_DTYPE_F32) return f(DeviceF32{});
  if (dtype == FUSCO_DTYPE_F16) return f(DeviceF16{});
  return f(DeviceBf16{});
}

// Writes the origin of a row: the token's rank, its number there, and k.
__device__ inline void writeOrigin(int32_t *to, uint32_t rank, uint32_t token, uint32_t k) {
  to[0] = static_cast<int32_t>(rank);
  to[1] = static_cast<int32_t>(token);
  to[2] = static_cast<int32_t>(k);
}

}  // namespace fusco::cuda
