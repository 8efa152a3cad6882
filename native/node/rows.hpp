// Work on one rank's rows around its exchanges: fp8 and gating, on the calling thread and the context's, or
// enqueued on a GPU.
#pragma once

#include "handles.hpp"

namespace fusco_node {

// The calls that plain objects describe. Their buffers are good until the callback returns: so long live the
// handles that keep them.
fusco_fp8_call fp8CallOf(const Napi::Object &object, uint32_t rank);
fusco_gate_call gateCallOf(const Napi::Object &object, uint32_t rank);
fusco_gate_backward_call gateBackwardCallOf(const Napi::Object &object, uint32_t rank);

// (context, {dtype, rows, hidden, values, codes, scales})
Napi::Value fp8Quantize(const Napi::CallbackInfo &info);
Napi::Value fp8Dequantize(const Napi::CallbackInfo &info);

// (context, {experts, topk, score, groups, groupTopk, groupScore, normalize, scale, tokens, logits, bias?,
// ids, weights, scores})
Napi::Value gate(const Napi::CallbackInfo &info);
// (context, {the same options, tokens, ids, scores, weightsGradient, logitsGradient})
Napi::Value gateBackward(const Napi::CallbackInfo &info);

// The same on the stream of a rank: (CUDA context, rank, the same object).
Napi::Value cudaFp8Quantize(const Napi::CallbackInfo &info);
Napi::Value cudaFp8Dequantize(const Napi::CallbackInfo &info);
Napi::Value cudaGate(const Napi::CallbackInfo &info);
Napi::Value cudaGateBackward(const Napi::CallbackInfo &info);

}  // namespace fusco_node
