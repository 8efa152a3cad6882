// Rows to and from e4m3 codes, at the rate of memory: half a warp or a warp for each block of 128 elements,
// several blocks of each in flight. The same bits as native/host/fp8.cc.

#include <cuda_fp8.h>

#include <type_traits>

#include "e4m3.hpp"
#include "element_device.cuh"
#include "row_launch.hpp"

namespace fusco::cuda {

namespace {

constexpr uint32_t threads = 256;

// The type of an access of `bytes` bytes: 1, 2, 4, 8 or 16.
template <uint32_t bytes>
using UnitOf = std::conditional_t<
    bytes == 16, uint4,
    std::conditional_t<
        bytes == 8, uint2,
        std::conditional_t<bytes == 4, uint32_t, std::conditional_t<bytes == 2, uint16_t, uint8_t>>>>;

// How the lanes of a warp share blocks: `width` elements an access, 16 bytes of values or one element.
template <class E, uint32_t width>
struct Share {
  static constexpr uint32_t block = static_cast<uint32_t>(fp8Block);
  static constexpr uint32_t lanes = block / width < 32 ? block / width : 32;  // of a block
  static constexpr uint32_t rounds = block / (lanes * width);
  static constexpr uint32_t teams = 32 / lanes;  // blocks that a warp holds side by side
  // Blocks one after the other, whose loads are in flight together.
  static constexpr uint32_t inFlight = rounds == 1 ? 4 : 1;
  static constexpr uint32_t warpBlocks = teams * inFlight;
  using Values = UnitOf<width * E::bytes>;
  using Codes = UnitOf<width>;

  // The first element of this lane's access `round`, counted in its block.
  __device__ static uint32_t elementOf(uint32_t round) {
    return (round * lanes + threadIdx.x % lanes) * width;
  }
  // This lane's block `j` of a run.
  __device__ static uint64_t blockOf(uint64_t first, uint32_t j) {
    return first + j * teams + threadIdx.x % 32 / lanes;
  }
};

// A block's first element, and how many it has; none behind the last block.
struct BlockAt {
  uint64_t element;
  uint32_t count;
};

template <bool whole>
__device__ BlockAt blockAt(const Fp8Params &p, uint64_t block) {
  if (block >= p.blocks) return {0, 0};
  if (whole) return {block * fp8Block, static_cast<uint32_t>(fp8Block)};
  const uint64_t row = block / p.rowBlocks;
  const uint64_t first = (block - row * p.rowBlocks) * fp8Block;
  const uint64_t rest = p.hidden - first;
  return {row * p.hidden + first, static_cast<uint32_t>(rest < fp8Block ? rest : fp8Block)};
}

// Calls work(first block) for every run of a warp's blocks; all lanes of a warp come along.
template <class S, class F>
__device__ void eachRun(const Fp8Params &p, F work) {
  const uint64_t warps = gridDim.x * uint64_t{threads / 32};
  const uint64_t warp = blockIdx.x * uint64_t{threads / 32} + threadIdx.x / 32;
  for (uint64_t first = warp * S::warpBlocks; first < p.blocks; first += warps * S::warpBlocks) work(first);
}

// `width` codes, one by one and in pairs.
template <uint32_t width>
union CodeUnit {
  UnitOf<width> unit;
  uint8_t code[width];
  uint16_t pair[(width + 1) / 2];
};

// The codes of `width` values. The processor's conversion rounds as encodeE4m3 does but keeps what is out of
// range at the largest number; only a block with an infinity or a NaN has that, and its factor is 0 or a NaN.
template <uint32_t width>
__device__ UnitOf<width> encodeCodes(const float *values, float factor) {
  CodeUnit<width> out;
  if constexpr (width > 1) {
    if (factor > 0.0f) {
#pragma unroll
      for (uint32_t i = 0; i < width; i += 2) {
        const float2 scaled = {values[i] * factor, values[i + 1] * factor};
        out.pair[i / 2] = __nv_cvt_float2_to_fp8x2(scaled, __NV_SATFINITE, __NV_E4M3);
      }
      return out.unit;
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < width; i++) out.code[i] = encodeE4m3(values[i] * factor);
  return out.unit;
}

// Every e4m3 number is exact in float16.
template <uint32_t width>
__device__ void decodeCodes(UnitOf<width> unit, float *values) {
  CodeUnit<width> in;
  in.unit = unit;
  if constexpr (width == 1) {
    values[0] = __half2float(__half(__nv_cvt_fp8_to_halfraw(in.code[0], __NV_E4M3)));
  } else {
#pragma unroll
    for (uint32_t i = 0; i < width; i += 2) {
      const float2 both = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(in.pair[i / 2], __NV_E4M3)));
      values[i] = both.x;
      values[i + 1] = both.y;
    }
  }
}

// The bits of the largest size in a block, at least those of fp8MinSize. Sizes are ordered as their bits are,
// and a NaN is above all.
template <class S, uint32_t count>
__device__ uint32_t largestOf(const float *values) {
  uint32_t largest = toBits(fp8MinSize);
#pragma unroll
  for (uint32_t i = 0; i < count; i++) largest = max(largest, toBits(values[i]) & 0x7fffffffu);
#pragma unroll
  for (uint32_t distance = S::lanes / 2; distance >= 1; distance /= 2) {
    largest = max(largest, __shfl_xor_sync(allLanes, largest, distance));
  }
  return largest;
}

// The blocks of a warp that are in flight together, in this lane's accesses of one `Unit` for `width`
// elements.
template <class S, bool whole, class Unit>
struct InFlight {
  BlockAt at[S::inFlight];
  Unit units[S::inFlight][S::rounds];

  __device__ InFlight(const Fp8Params &p, uint64_t first, const uint8_t *from, uint32_t elementBytes) {
#pragma unroll
    for (uint32_t j = 0; j < S::inFlight; j++) {
      at[j] = blockAt<whole>(p, S::blockOf(first, j));
#pragma unroll
      for (uint32_t r = 0; r < S::rounds; r++) units[j][r] = {};
      each(j, [&](uint32_t r, uint64_t element) {
        units[j][r] = loadOnce(reinterpret_cast<const Unit *>(from + element * elementBytes));
      });
    }
  }

  // Calls work(round, first element) for this lane's accesses of block `j`.
  template <class F>
  __device__ void each(uint32_t j, F work) const {
#pragma unroll
    for (uint32_t r = 0; r < S::rounds; r++) {
      if (S::elementOf(r) < at[j].count) work(r, at[j].element + S::elementOf(r));
    }
  }
};

template <class E, uint32_t width, bool whole>
__global__ void __launch_bounds__(threads) quantizeBlocks(const __grid_constant__ Fp8Params p) {
  using S = Share<E, width>;
  using L = Lanes<E, typename S::Values>;
  eachRun<S>(p, [&](uint64_t first) {
    const InFlight<S, whole, typename S::Values> in(p, first, p.values, E::bytes);
#pragma unroll
    for (uint32_t j = 0; j < S::inFlight; j++) {
      float values[S::rounds * width];
#pragma unroll
      for (uint32_t r = 0; r < S::rounds; r++) L::decode(in.units[j][r], values + r * width);
      const uint32_t largest = largestOf<S, S::rounds * width>(values);
      const float size = fromBits(largest > 0x7f800000u ? 0x7fc00000u : largest);
      const float factor = e4m3Max / size;
      if (in.at[j].count == 0) continue;
      if (S::elementOf(0) == 0) p.scales[S::blockOf(first, j)] = fromBits(encodeF32(size / e4m3Max));
      in.each(j, [&](uint32_t r, uint64_t element) {
        *reinterpret_cast<typename S::Codes *>(p.codes + element) =
            encodeCodes<width>(values + r * width, factor);
      });
    }
  });
}

template <class E, uint32_t width, bool whole>
__global__ void __launch_bounds__(threads) dequantizeBlocks(const __grid_constant__ Fp8Params p) {
  using S = Share<E, width>;
  using L = Lanes<E, typename S::Values>;
  eachRun<S>(p, [&](uint64_t first) {
    const InFlight<S, whole, typename S::Codes> in(p, first, p.codes, 1);
    float scale[S::inFlight];
#pragma unroll
    for (uint32_t j = 0; j < S::inFlight; j++) {
      scale[j] = in.at[j].count == 0 ? 0.0f : p.scales[S::blockOf(first, j)];
    }
#pragma unroll
    for (uint32_t j = 0; j < S::inFlight; j++) {
      in.each(j, [&](uint32_t r, uint64_t element) {
        float values[width];
        decodeCodes<width>(in.units[j][r], values);
#pragma unroll
        for (uint32_t i = 0; i < width; i++) values[i] *= scale[j];
        *reinterpret_cast<typename S::Values *>(p.values + element * E::bytes) = L::encode(values);
      });
    }
  });
}

template <class E, uint32_t width, bool whole>
cudaError_t launchShared(const Fp8Params &p, Fp8Direction direction, const DeviceLimits &limits,
                         cudaStream_t stream) {
  constexpr uint64_t perBlock = Share<E, width>::warpBlocks * (threads / 32);
  const uint64_t wanted = (p.blocks + perBlock - 1) / perBlock;
  const uint64_t most = uint64_t{limits.sms} * 16;
  if (wanted == 0) return cudaSuccess;
  const auto blocks = static_cast<uint32_t>(wanted < most ? wanted : most);
  const auto kernel = direction == Fp8Direction::quantize ? quantizeBlocks<E, width, whole>
                                                          : dequantizeBlocks<E, width, whole>;
  kernel<<<blocks, threads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launchFp8(const Fp8Params &p, Fp8Direction direction, fusco_dtype dtype, bool wide,
                      const DeviceLimits &limits, cudaStream_t stream) {
  return forElement(dtype, [&](auto element) {
    using E = decltype(element);
    constexpr uint32_t width = 16 / E::bytes;
    if (!wide) return launchShared<E, 1, false>(p, direction, limits, stream);
    if (p.hidden % fp8Block != 0) return launchShared<E, width, false>(p, direction, limits, stream);
    return launchShared<E, width, true>(p, direction, limits, stream);
  });
}

}  // namespace fusco::cuda
