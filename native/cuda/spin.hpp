#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fusco::cuda {

// Occupies one thread of the GPU for so long.
cudaError_t launchSpin(uint64_t nanoseconds, cudaStream_t stream);

}  // namespace fusco::cuda
