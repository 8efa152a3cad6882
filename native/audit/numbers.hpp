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
  void (*store)(uint8_t *at, float value) = nullptr;
  Precision precision{};

  bool areNumbers() const { return load != nullptr; }
};

constexpr Precision precisionF32 = {0x1p-24, 0x1p-150, 0x1.fffffep127};
constexpr Precision precisionF16 = {0x1p-11, 0x1p-25, 65504};
constexpr Precision precisionBf16 = {0x1p-8, 0x1p-134, 0x1.fep127};

inline Numbers numbersOf(fusco_dtype dtype) {
  switch (dtype) {
    case FUSCO_DTYPE_F32:
      return {4, F32::load, F32::store, precisionF32};
    case FUSCO_DTYPE_F16:
      return {2, F16::load, F16::store, precisionF16};
    case FUSCO_DTYPE_BF16:
      return {2, Bf16::load, Bf16::store, precisionBf16};
    case FUSCO_DTYPE_BYTES:
    case FUSCO_DTYPE_FP8:
      return {};
  }
  throw Failure(FUSCO_E_DTYPE, "dtype %d has no name", dtype);
}

// A value rounded to the dtype.
inline float roundedTo(const Numbers &numbers, float value) {
  uint8_t bits[4];
  numbers.store(bits, value);
  return numbers.load(bits);
}

}  // namespace fusco::audit
