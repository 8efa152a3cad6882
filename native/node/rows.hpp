// Work on one rank's rows around its exchanges: fp8 and gating, on the calling thread and the context's.
#pragma once

#include "handles.hpp"

namespace fusco_node {

// (context, {dtype, rows, hidden, values, codes, scales})
Napi::Value fp8Quantize(const Napi::CallbackInfo &info);
Napi::Value fp8Dequantize(const Napi::CallbackInfo &info);

// (context, {experts, topk, score, groups, groupTopk, groupScore, normalize, scale, tokens, logits, bias?,
// ids, weights, scores})
Napi::Value gate(const Napi::CallbackInfo &info);
// (context, {the same options, tokens, ids, scores, weightsGradient, logitsGradient})
Napi::Value gateBackward(const Napi::CallbackInfo &info);

}  // namespace fusco_node
