// The loops over a row's elements, one set for each kind of processor. All sets give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fusco.h"
#include "plan_types.hpp"

namespace fusco {

// A row and its weight, as combine adds it. The weight is ignored by unweighted kernels.
struct Term {
  const uint8_t *row;
  float weight;
  // Whether it is the last one of its node: a tree then adds the node's partial sum to the total.
  bool closesNode = false;
};

struct Arithmetic {
  // out[i] = sum of terms in order, from +0, rounded once; `nonTemporal` allows stores that bypass the
  // caches. Indexed by Tree and by whether terms are weighted.
  void (*combine[3][2])(uint8_t *out, const Term *terms, size_t count, size_t elements, bool nonTemporal);
  // out[i] = row[i] * weight, rounded once.
  void (*scale)(uint8_t *out, const uint8_t *row, float weight, size_t elements);
  // The dot product in 32 lanes; a NaN is the canonical one.
  float (*dot)(const uint8_t *a, const uint8_t *b, size_t elements);
};

struct Kernels {
  const char *name;
  // Copies one row to each of `count` places. copyRowNonTemporal bypasses the caches; a fence() must follow
  // on the same thread before another thread may read what it wrote.
  void (*copyRow)(const uint8_t *row, uint8_t *const *places, size_t count, size_t bytes);
  void (*copyRowNonTemporal)(const uint8_t *row, uint8_t *const *places, size_t count, size_t bytes);
  void (*fence)();
  Arithmetic f32;
  Arithmetic f16;
  Arithmetic bf16;

  const Arithmetic &of(fusco_dtype dtype) const {
    return dtype == FUSCO_DTYPE_F32 ? f32 : dtype == FUSCO_DTYPE_F16 ? f16 : bf16;
  }
};

extern const Kernels portableKernels;
// Defined on x86-64 only; needs AVX2 and F16C.
extern const Kernels avx2Kernels;

// The set for this processor.
const Kernels &chooseKernels(fusco_kernels wanted);

// Bytes of one element; 0 for opaque rows.
inline uint32_t elementBytes(fusco_dtype dtype) {
  if (dtype == FUSCO_DTYPE_F32) return 4;
  return dtype == FUSCO_DTYPE_F16 || dtype == FUSCO_DTYPE_BF16 ? 2 : 0;
}

}  // namespace fusco
