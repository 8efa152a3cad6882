// One element of each dtype to float32 and back, bit by bit: the tail of every vector loop and the portable
// set. Everything has internal linkage, so that no copy compiled for one processor is linked into code for
// another. What is marked FUSCO_BOTH is compiled for the GPU as well.
#pragma once

#include <cstdint>
#include <cstring>

#include "both.hpp"

namespace fusco {
namespace {

FUSCO_BOTH inline float fromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

FUSCO_BOTH inline uint32_t toBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

FUSCO_BOTH inline uint32_t encodeF32(float value) { return value != value ? 0x7fc00000u : toBits(value); }

inline float decodeBf16(uint16_t bits) { return fromBits(static_cast<uint32_t>(bits) << 16); }

inline uint16_t encodeBf16(float value) {
  const uint32_t bits = toBits(value);
  // Round to nearest even: just under half of the last kept place, or exactly half where that place is odd.
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return value != value ? 0x7fc0 : static_cast<uint16_t>(rounded);
}

inline float decodeF16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t rest = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  if (rest >= 0x7c00u << 13) return fromBits(sign | 0x7f800000u | rest);
  if (rest >= 0x0400u << 13) return fromBits(sign | (rest + (112u << 23)));
  // A subnormal is a whole number of 2^-24, which float32 holds exactly.
  const float size = static_cast<float>(bits & 0x3ffu) * 5.9604644775390625e-8f;
  return fromBits(sign | toBits(size));
}

inline uint16_t encodeF16(float value) {
  const uint32_t bits = toBits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return 0x7e00;
  // 65520 is half way to the first value out of range, and 65504 is odd: it rounds to infinity.
  if (size >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (size < 0x38800000u) {
    // Below 2^-14 the grid is 2^-24. Adding 0.5, whose last place is 2^-24, rounds to it; the low bits are
    // the result, and a carry to 2^-14 is its encoding as well.
    const float shifted = fromBits(size) + 0.5f;
    return static_cast<uint16_t>(sign | (toBits(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = size + 0xfffu + ((size >> 13) & 1u) - (112u << 23);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

// An element type in memory at any address: `decode` and `encode` convert its bits.
template <class Bits, float (*decode)(Bits), Bits (*encode)(float)>
struct StoredElement {
  static constexpr size_t bytes = sizeof(Bits);
  static float load(const uint8_t *at) {
    Bits bits;
    std::memcpy(&bits, at, sizeof bits);
    return decode(bits);
  }
  static void store(uint8_t *at, float value) {
    const Bits bits = encode(value);
    std::memcpy(at, &bits, sizeof bits);
  }
};

using F32 = StoredElement<uint32_t, fromBits, encodeF32>;
using F16 = StoredElement<uint16_t, decodeF16, encodeF16>;
using Bf16 = StoredElement<uint16_t, decodeBf16, encodeBf16>;

}  // namespace
}  // namespace fusco
