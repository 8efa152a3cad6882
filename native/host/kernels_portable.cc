// For processors without another set, and the choice of a set.

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "arithmetic.hpp"

namespace fusco {
namespace {

#if defined(__x86_64__)
// By CPUID: not every compiler's __builtin_cpu_supports knows f16c.
bool hasF16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

}  // namespace

const Kernels portableKernels = kernelsNamed("portable");

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
