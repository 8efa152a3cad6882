// The gradient of combine between GPUs of one host in one pass. A row of the output gradient crosses a
// link once per destination rank, unscaled, with the weights of its entries. The destination scales it for
// each of its slots and forms the dot products with the experts' rows; each returns as one number.
#pragma once

#include "one_pass.hpp"

namespace fusco::cuda {

struct CombineGradientParams {
  OnePassCommon common;
  ToldAddresses told;  // buffer 0: `dispatch.payload[0].to`, buffer 1: `weightsGradient`
  // A scaled dispatch of one payload, the output gradient, whose rows and addresses are multiples of 16
  // bytes.
  DispatchParams dispatch;
  const uint8_t *rows[maxRanks];     // by rank: what combine read
  float *weightsGradient[maxRanks];  // by rank
  uint64_t *pushed[maxRanks];        // by rank: its device's memory for weights, as in SumParams
  uint64_t pushedEntries;            // capacity of one set
  uint32_t lag;                      // chunks between sending rows and using them
};

// Flags of a chunk at a rank: rows that arrive, and dot products that return.
constexpr uint64_t gradientFlags = 2;

// Enqueues on a stream of the current device.
cudaError_t launchCombineGradient(const CombineGradientParams &params, const OnePassGrid &grid,
                                  cudaStream_t stream);

}  // namespace fusco::cuda
