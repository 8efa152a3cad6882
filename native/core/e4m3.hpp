// One e4m3 code from a float32 and back, for processors and for GPUs, and the constants of a block.
#pragma once

#include <cstdint>

#include "element.hpp"

namespace fusco {
namespace {

// Elements that share a scale.
constexpr uint64_t fp8Block = 128;
constexpr float e4m3Max = 448.0f;
constexpr float fp8MinSize = 1e-4f;
constexpr uint8_t e4m3Nan = 0x7f;

constexpr uint64_t fp8Blocks(uint64_t hidden) { return (hidden + fp8Block - 1) / fp8Block; }

// Both ranges are computed and one is taken, so that the loop over a block needs no branches.
FUSCO_ON_BOTH inline uint8_t encodeE4m3(float value) {
  const uint32_t bits = toBits(value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t size = bits & 0x7fffffffu;
  // Below 2^-6 the grid is 2^-9: adding 2^14, whose last place is 2^-9, rounds to it.
  const uint32_t small = toBits(fromBits(size) + 16384.0f) - 0x46800000u;
  const uint32_t rounded = (size + 0x7ffffu + ((size >> 20) & 1u) - (120u << 23)) >> 20;
  const uint32_t code = sign | (size < 0x3c800000u ? small : rounded);
  // 464 is half way to where the next number would be, and 448 is even.
  return static_cast<uint8_t>(size > 0x43e80000u ? e4m3Nan : code);
}

inline float decodeE4m3(uint32_t code) {
  const uint32_t size = code & 0x7fu;
  const uint32_t sign = (code & 0x80u) << 24;
  if (size == 0x7fu) return fromBits(0x7fc00000u);
  // A subnormal is a whole number of 2^-9.
  if (size < 8) return fromBits(sign | toBits(static_cast<float>(size) * 0.001953125f));
  return fromBits(sign | ((size << 20) + (120u << 23)));
}

}  // namespace
}  // namespace fusco
