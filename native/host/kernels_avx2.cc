// AVX2 and F16C. This file alone is compiled for them, and reached only after the processor was asked.

#include "arithmetic.hpp"

const fusco::Kernels fusco::avx2Kernels = kernelsNamed("avx2");
