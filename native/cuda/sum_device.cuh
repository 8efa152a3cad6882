// Sums of rows in registers, as combine between GPUs makes them: multiply, round, add, round; nothing is
// contracted.
#pragma once

#include <type_traits>

#include "element_device.cuh"

namespace fusco::cuda {

// Elements of a row that one work item adds: a multiple of 32 x 16 bytes of the row, in at most `stageBytes`
// bytes of a row or of a partial sum.
template <class E, class P, uint32_t stageBytes>
struct SliceOf {
  static constexpr uint32_t widest = E::bytes > P::bytes ? E::bytes : P::bytes;
  static constexpr uint32_t piece = 32 * 16 / E::bytes;
  static constexpr uint32_t elements = stageBytes / widest / piece * piece;
};

// Two elements in 32 bits, or one of 32 bits.
template <class E>
struct Pack;

template <>
struct Pack<DeviceF32> {
  static constexpr uint32_t elements = 1;
  __device__ static void decode(uint32_t bits, float *out) { out[0] = __uint_as_float(bits); }
  __device__ static uint32_t encode(const float *in) { return DeviceF32::encode(in[0]); }
};

template <>
struct Pack<DeviceBf16> {
  static constexpr uint32_t elements = 2;
  __device__ static void decode(uint32_t bits, float *out) {
    out[0] = __uint_as_float(bits << 16);
    out[1] = __uint_as_float(bits & 0xffff0000u);
  }
  __device__ static uint32_t encode(const float *in) { return DeviceBf16::encodePair(in[0], in[1]); }
};

template <>
struct Pack<DeviceF16> {
  static constexpr uint32_t elements = 2;
  __device__ static void decode(uint32_t bits, float *out) {
    __half2 pair;
    memcpy(&pair, &bits, 4);
    const float2 both = __half22float2(pair);
    out[0] = both.x;
    out[1] = both.y;
  }
  __device__ static uint32_t encode(const float *in) { return DeviceF16::encodePair(in[0], in[1]); }
};

// Sums of one warp over a slice of `sliceElements` elements: a partial sum and, if `hasTotal`, the total. `E`
// is the element of rows, `P` that of partial sums. A lane has the elements of 16 bytes of a row in each of
// `vectors` pieces of the slice; it reads those of `ahead` pieces before it adds them. If these are several,
// it adds whole slices: behind the last element what a stage had before, which nobody uses.
template <class E, class P, bool hasTotal, uint32_t sliceElements, uint32_t ahead>
struct Sums {
  static constexpr uint32_t perLane = 16 / E::bytes;
  static constexpr uint32_t vectors = sliceElements / (32 * perLane);
  static constexpr bool isWhole = ahead > 1;
  float partial[vectors * perLane];
  float total[hasTotal ? vectors * perLane : 1];

  __device__ void clear() {
#pragma unroll
    for (uint32_t i = 0; i < vectors * perLane; i++) {
      partial[i] = 0.0f;
      if constexpr (hasTotal) total[i] = 0.0f;
    }
  }
  // Calls f(index of the first element, 32 bits) for all of the lane's elements; a stage or result holds
  // `count` elements of dtype Q.
  template <class Q, class Bytes, class F>
  __device__ static void forAll(Bytes *bytes, uint32_t lane, uint32_t count, F f) {
    constexpr uint32_t units = perLane * Q::bytes / 16;
    constexpr uint32_t per = Pack<Q>::elements;
#pragma unroll
    for (uint32_t v = 0; v < vectors; v++) {
      const uint32_t element = (v * 32 + lane) * perLane;
      if (!isWhole && element >= count) break;
#pragma unroll
      for (uint32_t unit = 0; unit < units; unit++) {
        using Unit = std::conditional_t<std::is_const_v<Bytes>, const uint4, uint4>;
        f(v * perLane + unit * 4 * per, reinterpret_cast<Unit *>(bytes + element * Q::bytes)[unit]);
      }
    }
  }
  // The same for what is only read.
  template <class Q, class F>
  __device__ static void readAll(const uint8_t *bytes, uint32_t lane, uint32_t count, F f) {
    if constexpr (!isWhole) {
      forAll<Q>(bytes, lane, count, f);
    } else {
      constexpr uint32_t units = perLane * Q::bytes / 16;
      constexpr uint32_t per = Pack<Q>::elements;
#pragma unroll
      for (uint32_t first = 0; first < vectors; first += ahead) {
        uint4 raw[ahead][units];
#pragma unroll
        for (uint32_t i = 0; i < ahead && first + i < vectors; i++) {
          const uint8_t *piece = bytes + ((first + i) * 32 + lane) * perLane * Q::bytes;
#pragma unroll
          for (uint32_t unit = 0; unit < units; unit++) {
            raw[i][unit] = reinterpret_cast<const uint4 *>(piece)[unit];
          }
        }
#pragma unroll
        for (uint32_t i = 0; i < ahead && first + i < vectors; i++) {
#pragma unroll
          for (uint32_t unit = 0; unit < units; unit++) {
            f((first + i) * perLane + unit * 4 * per, raw[i][unit]);
          }
        }
      }
    }
  }
  // sum[first, ...] = sum[first, ...] + weight * row
  template <class Q>
  __device__ static void accumulate(float *sum, uint4 row, float weight, bool isWeighted) {
    constexpr uint32_t per = Pack<Q>::elements;
    const uint32_t words[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
    for (uint32_t word = 0; word < 4; word++) {
      float values[per];
      Pack<Q>::decode(words[word], values);
#pragma unroll
      for (uint32_t i = 0; i < per; i++) {
        float &to = sum[word * per + i];
        to = to + (isWeighted ? weight * values[i] : values[i]);
      }
    }
  }
  __device__ void add(const uint8_t *stage, float weight, uint32_t lane, uint32_t count) {
    readAll<E>(stage, lane, count,
               [&](uint32_t first, const uint4 &row) { accumulate<E>(partial + first, row, weight, true); });
  }
  // Adds a finished partial sum to the total, or to what takes its place.
  __device__ void addTotal(const uint8_t *stage, uint32_t lane, uint32_t count) {
    float *sum = hasTotal ? total : partial;
    readAll<P>(stage, lane, count,
               [&](uint32_t first, const uint4 &row) { accumulate<P>(sum + first, row, 1.0f, false); });
  }
  // Rounds the partial sum, adds it to the total, and starts the next one.
  __device__ void fold() {
    constexpr uint32_t per = Pack<P>::elements;
#pragma unroll
    for (uint32_t at = 0; at < vectors * perLane; at += per) {
      float rounded[per];
      Pack<P>::decode(Pack<P>::encode(partial + at), rounded);
#pragma unroll
      for (uint32_t i = 0; i < per; i++) {
        total[at + i] = total[at + i] + rounded[i];
        partial[at + i] = 0.0f;
      }
    }
  }
  // Stores the total, or what takes its place, in elements of dtype Q.
  template <class Q>
  __device__ void store(uint8_t *result, uint32_t lane, uint32_t count) const {
    constexpr uint32_t per = Pack<Q>::elements;
    const float *from = hasTotal ? total : partial;
    forAll<Q>(result, lane, count, [&](uint32_t first, uint4 &to) {
      to = make_uint4(Pack<Q>::encode(from + first), Pack<Q>::encode(from + first + per),
                      Pack<Q>::encode(from + first + 2 * per), Pack<Q>::encode(from + first + 3 * per));
    });
  }
};

}  // namespace fusco::cuda
