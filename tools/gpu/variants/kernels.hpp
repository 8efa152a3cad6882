// The variants of the kernels.
#pragma once

#include <vector>

#include "one_pass_gradient.hpp"

namespace fusco::variants {

// bf16 rows and partial sums.
struct SumVariant {
  const char *name;
  uint32_t sliceElements;
  cudaError_t (*launch)(const cuda::SumParams &params,
                        const cuda::OnePassGrid &grid, cudaStream_t stream);
};

// bf16 rows.
struct GradientVariant {
  const char *name;
  cudaError_t (*launch)(const cuda::CombineGradientParams &params,
                        const cuda::OnePassGrid &grid, cudaStream_t stream);
};

// The first of each list is the code of the library.
std::vector<SumVariant> sumVariants();
std::vector<GradientVariant> gradientVariants();

} // namespace fusco::variants
