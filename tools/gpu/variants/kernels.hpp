// The variants of the kernels, by object file: each file of variants is
// compiled with waits in line, and once more with waits out of line.
#pragma once

#include <vector>

#include "one_pass_gradient.hpp"

namespace fusco::variants {

struct MoveVariant {
  const char *name;
  uint32_t stageBytes;  // of a row that one work item moves
  bool joinsPayloads;
  cudaError_t (*launch)(const cuda::MoveParams &params, uint32_t blocks, cudaStream_t stream);
};

// bf16 rows and partial sums.
struct SumVariant {
  const char *name;
  uint32_t sliceElements;
  cudaError_t (*launch)(const cuda::SumParams &params, uint32_t blocks, cudaStream_t stream);
};

// bf16 rows.
struct GradientVariant {
  const char *name;
  cudaError_t (*launch)(const cuda::CombineGradientParams &params, uint32_t blocks, cudaStream_t stream);
};

// The first of each list is the code of the library.
std::vector<MoveVariant> moveVariants();
std::vector<MoveVariant> moveVariantsOutlined();
std::vector<SumVariant> sumVariants();
std::vector<SumVariant> sumVariantsOutlined();
std::vector<GradientVariant> gradientVariants();
std::vector<GradientVariant> gradientVariantsOutlined();

// Launches a kernel with all of its shared memory. `isEarly`: its blocks may start before the launch in front
// of it on the stream has ended.
template <class Params>
cudaError_t launchWith(void (*kernel)(Params), const Params &params, uint32_t blocks, uint32_t threads,
                       size_t sharedBytes, cudaStream_t stream, bool isEarly = false) {
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(sharedBytes));
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = sharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = isEarly ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace fusco::variants
