// Functions of a float32 with a fixed order of operations, the same in executor/training/gating.ts: the C
// library's differ from machine to machine. Compiled without contraction to FMA, for processors and for GPUs.
#pragma once

#include <cstdint>

#include "element.hpp"

namespace fusco {
namespace {

// e^x, at most 0.98 ulp from the true value (0.75 of a subnormal result); 0 below the smallest, infinity
// above. x = n ln 2 + r, |r| <= ln 2 / 2; a polynomial in r (Cephes' expf), and 2^n in two steps, so that
// subnormals round once more at the end.
FUSCO_ON_BOTH inline float expFloat(float x) {
  // 1.5 * 2^23: adding it leaves whole numbers in the low bits, rounded to nearest even.
  constexpr float magic = 12582912.0f;
  const bool inside = x >= -104.0f && x <= 88.72283935546875f;
  const float clamped = inside ? x : 0.0f;
  const float n = (clamped * 1.44269502162933349609375f + magic) - magic;
  const float high = clamped - n * 0.693359375f;
  const float r = high - n * -0.00021219444170128554105758666992f;
  float p = 0.000198756912141107022762298583984375f;
  p = p * r + 0.0013981999363750219345092773438f;
  p = p * r + 0.008333452045917510986328125f;
  p = p * r + 0.0416657961905002593994140625f;
  p = p * r + 0.1666666567325592041015625f;
  p = p * r + 0.5f;
  const float y = (p * (r * r) + r) + 1.0f;
  const auto whole = static_cast<int32_t>(n);
  const int32_t half = whole >> 1;
  const float first = fromBits(static_cast<uint32_t>(half + 127) << 23);
  const float second = fromBits(static_cast<uint32_t>(whole - half + 127) << 23);
  const float result = (y * first) * second;
  if (inside) return result;
  return x < 0.0f ? 0.0f : x + fromBits(0x7f800000u);
}

FUSCO_ON_BOTH inline float sigmoidFloat(float x) { return 1.0f / (1.0f + expFloat(-x)); }

// What is chosen by: a NaN counts as -infinity, so that nothing is below it.
FUSCO_ON_BOTH inline float nanLowest(float value) { return value != value ? fromBits(0xff800000u) : value; }

// Keeps a sum of scores that are all zero from dividing by zero, as the models that normalise do.
constexpr float normalizeFloor = 1e-20f;

}  // namespace
}  // namespace fusco
