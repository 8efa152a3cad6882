// Elements of rows as float32, chosen at run time by their dtype.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "element.hpp"
#include "failure.hpp"

namespace fusco::audit {

// What rounding to a dtype does: relative error for normal numbers, absolute error for subnormal ones.
struct Precision {
  double unit;  // half the distance from 1 to the next number
  double tiny;  // half the smallest subnormal number
  double most;  // the largest finite number
};

struct Numbers {
  uint32_t bytes = 1;
  float (*load)(const uint8_t *at) = nullptr;  // null for opaque rows
  // The same for `count` elements, in loops that the compiler can vectorize.
  void (*loadAll)(const uint8_t *from, float *to, uint64_t count) = nullptr;
  void (*storeAll)(const float *from, uint8_t *to, uint64_t count) = nullptr;
  void (*roundAll)(float *values, uint64_t count) = nullptr;  // to the dtype
  Precision precision{};

  bool areNumbers() const { return load != nullptr; }
};

template <class Element>
struct ElementLoops {
  static void load(const uint8_t *from, float *to, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) to[i] = Element::load(from + i * Element::bytes);
  }
  static void store(const float *from, uint8_t *to, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) Element::store(to + i * Element::bytes, from[i]);
  }
  static void round(float *values, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
      uint8_t bits[Element::bytes];
      Element::store(bits, values[i]);
      values[i] = Element::load(bits);
    }
  }
};

template <class Element>
Numbers numbersAs(const Precision &precision) {
  using Loops = ElementLoops<Element>;
  return {Element::bytes, Element::load, Loops::load, Loops::store, Loops::round, precision};
}

constexpr Precision precisionF32 = {0x1p-24, 0x1p-150, 0x1.fffffep127};
constexpr Precision precisionF16 = {0x1p-11, 0x1p-25, 65504};
constexpr Precision precisionBf16 = {0x1p-8, 0x1p-134, 0x1.fep127};

inline Numbers numbersOf(fusco_dtype dtype) {
  switch (dtype) {
    case FUSCO_DTYPE_F32:
      return numbersAs<F32>(precisionF32);
    case FUSCO_DTYPE_F16:
      return numbersAs<F16>(precisionF16);
    case FUSCO_DTYPE_BF16:
      return numbersAs<Bf16>(precisionBf16);
    case FUSCO_DTYPE_BYTES:
    case FUSCO_DTYPE_FP8:
      return {};
  }
  throw Failure(FUSCO_E_DTYPE, "dtype %d has no name", dtype);
}

}  // namespace fusco::audit
