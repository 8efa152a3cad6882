// Work on one rank's rows: checked, and enqueued on the rank's stream.
#pragma once

#include "cuda_context.hpp"

namespace fusco::cuda {

void quantize(CudaContext &context, uint32_t rank, const fusco_fp8_call &call);
void dequantize(CudaContext &context, uint32_t rank, const fusco_fp8_call &call);
void gate(CudaContext &context, uint32_t rank, const fusco_gate_call &call);
// Zeros from row `*first` on, which is in device memory.
void clearRows(CudaContext &context, uint32_t rank, const fusco_buffer &rows, uint64_t rowBytes,
               const uint32_t *first);
void gateBackward(CudaContext &context, uint32_t rank, const fusco_gate_backward_call &call);

}  // namespace fusco::cuda
