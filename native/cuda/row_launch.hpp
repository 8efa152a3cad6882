// Host side of the kernels that work on one rank's rows: each call enqueues on a stream of the current device
// and returns CUDA's verdict. Calls arrive checked.
#pragma once

#include "exchange_launch.hpp"

namespace fusco::cuda {

struct Fp8Params {
  uint8_t *values;
  uint8_t *codes;
  float *scales;
  uint64_t hidden;
  uint64_t rowBlocks;  // blocks of one row
  uint64_t blocks;     // of all rows
};

enum class Fp8Direction { quantize, dequantize };

// `wide`: addresses and rows allow 16 bytes of values at a time.
cudaError_t launchFp8(const Fp8Params &params, Fp8Direction direction, fusco_dtype dtype, bool wide,
                      const DeviceLimits &limits, cudaStream_t stream);

struct GateParams {
  fusco_gate_options options;
  uint64_t tokens;
  const float *logits;
  const float *bias;  // or null
  int32_t *ids;
  float *weights;
  float *scores;
};

struct GateBackwardParams {
  fusco_gate_options options;
  uint64_t tokens;
  const int32_t *ids;
  const float *scores;
  const float *weightsGradient;
  float *logitsGradient;
};

cudaError_t launchGate(const GateParams &params, const DeviceLimits &limits, cudaStream_t stream);
cudaError_t launchGateBackward(const GateBackwardParams &params, const DeviceLimits &limits,
                               cudaStream_t stream);

struct ClearParams {
  uint8_t *rows;
  uint64_t bytes;  // a whole number of rows
  uint64_t rowBytes;
  const uint32_t *first;  // in device memory: rows that stay
};

cudaError_t launchClear(const ClearParams &params, const DeviceLimits &limits, cudaStream_t stream);

}  // namespace fusco::cuda
