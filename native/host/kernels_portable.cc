// Plain C++ for processors without another set; the compiler vectorises what it can.

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "arithmetic.hpp"

namespace fusco {
namespace {

template <class E>
struct Portable {
  using Element = E;
  struct Vec {
    float lane[lanes];
  };
  static Vec zero() { return splat(0.0f); }
  static Vec splat(float value) {
    Vec v;
    for (float &lane : v.lane) lane = value;
    return v;
  }
  static Vec add(Vec a, const Vec &b) {
    for (size_t i = 0; i < lanes; i++) a.lane[i] += b.lane[i];
    return a;
  }
  static Vec mul(Vec a, const Vec &b) {
    for (size_t i = 0; i < lanes; i++) a.lane[i] *= b.lane[i];
    return a;
  }
  static Vec load(const uint8_t *from) {
    Vec v;
    for (size_t i = 0; i < lanes; i++) v.lane[i] = E::load(from + i * E::bytes);
    return v;
  }
  static Vec round(Vec v) {
    for (float &lane : v.lane) {
      uint8_t bytes[E::bytes];
      E::store(bytes, lane);
      lane = E::load(bytes);
    }
    return v;
  }
  static void store2(uint8_t *to, const Vec &a, const Vec &b, bool) {
    for (size_t i = 0; i < lanes; i++) E::store(to + i * E::bytes, a.lane[i]);
    for (size_t i = 0; i < lanes; i++) E::store(to + (lanes + i) * E::bytes, b.lane[i]);
  }
  static void spill(float *to, const Vec &v) { std::memcpy(to, v.lane, sizeof v.lane); }
};

void noFence() {}

#if defined(__x86_64__)
// By CPUID: not every compiler's __builtin_cpu_supports knows f16c.
bool hasF16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

}  // namespace

const Kernels portableKernels = {
    "portable",
    copyRow,
    copyRow,
    noFence,
    arithmeticOf<Portable<F32>>(),
    arithmeticOf<Portable<F16>>(),
    arithmeticOf<Portable<Bf16>>(),
};

const Kernels &chooseKernels(fusco_kernels wanted) {
#if defined(__x86_64__)
  if (wanted == FUSCO_KERNELS_AUTO && __builtin_cpu_supports("avx2") && hasF16c()) {
    return avx2Kernels;
  }
#endif
  (void)wanted;
  return portableKernels;
}

}  // namespace fusco
