// Pieces that several kernels use.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "device_tables.hpp"

namespace fusco::cuda {

// Local index of the rank that token `token` starts at.
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

struct DeviceF16 {
  static constexpr uint32_t bytes = 2;
  using Bits = uint16_t;
  __device__ static float decode(Bits bits) { return __half2float(__ushort_as_half(bits)); }
  __device__ static Bits encode(float value) {
    return value != value ? Bits{0x7e00} : __half_as_ushort(__float2half_rn(value));
  }
};

struct DeviceBf16 {
  static constexpr uint32_t bytes = 2;
  using Bits = uint16_t;
  __device__ static float decode(Bits bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
  __device__ static Bits encode(float value) {
    return value != value ? Bits{0x7fc0} : __bfloat16_as_ushort(__float2bfloat16_rn(value));
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

}  // namespace fusco::cuda
