#include "call_checks.hpp"

#include <cstdio>

#include "buffers.hpp"

namespace fusco {

void checkDispatchCall(const fusco_plan &plan, const fusco_dispatch_call &call) {
  BufferCheck buffers(plan);
  if (call.payload_count > 0 && call.payloads == nullptr) {
    throw Failure(FUSCO_E_OPTION, "%u payloads, but none were given", call.payload_count);
  }
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    char from[28];
    char to[28];
    std::snprintf(from, sizeof from, "payload %u: from", p);
    std::snprintf(to, sizeof to, "payload %u: to", p);
    checkRowBytes(payload.row_bytes);
    if (payload.per == FUSCO_PER_TOKEN) {
      if (call.scale != nullptr) checkElements(payload.dtype, payload.row_bytes);
      buffers.tokens(from, payload.from, payload.row_bytes, false);
    } else if (payload.per == FUSCO_PER_ENTRY) {
      buffers.entries(from, payload.from, payload.row_bytes, false);
    } else {
      throw Failure(FUSCO_E_OPTION, "payload %u: per is %d; it must be 0 or 1", p, payload.per);
    }
    buffers.received(to, payload.to, payload.row_bytes, true);
  }
  if (call.origins != nullptr) buffers.received("origins", call.origins, originBytes, true);
  if (call.scale != nullptr) buffers.entries("scale", call.scale, weightBytes, false);
  buffers.refuseOverlap();
}

void checkCombineCall(const fusco_plan &plan, const fusco_combine_call &call) {
  checkRowBytes(call.row_bytes);
  checkElements(call.dtype, call.row_bytes);
  BufferCheck buffers(plan);
  buffers.received("from", call.from, call.row_bytes, false);
  buffers.tokens("to", call.to, call.row_bytes, true);
  if (call.weights != nullptr) buffers.entries("weights", call.weights, weightBytes, false);
  buffers.refuseOverlap();
}

void checkWeightGradientCall(const fusco_plan &plan, const fusco_weight_gradient_call &call) {
  checkRowBytes(call.row_bytes);
  checkElements(call.dtype, call.row_bytes);
  BufferCheck buffers(plan);
  buffers.tokens("outputGradient", call.output_gradient, call.row_bytes, false);
  buffers.received("from", call.from, call.row_bytes, false);
  buffers.entries("to", call.to, weightBytes, true);
  buffers.refuseOverlap();
}

void checkCombineGradientCall(const fusco_plan &plan, const fusco_combine_gradient_call &call) {
  checkRowBytes(call.row_bytes);
  checkElements(call.dtype, call.row_bytes);
  BufferCheck buffers(plan);
  buffers.tokens("outputGradient", call.output_gradient, call.row_bytes, false);
  buffers.received("from", call.from, call.row_bytes, false);
  buffers.entries("weights", call.weights, weightBytes, false);
  buffers.received("to", call.to, call.row_bytes, true);
  buffers.entries("weightsGradient", call.weights_gradient, weightBytes, true);
  if (call.origins != nullptr) buffers.received("origins", call.origins, originBytes, true);
  buffers.refuseOverlap();
}

void countDispatch(const fusco_plan &plan, const fusco_dispatch_call &call, fusco_stats &stats) {
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    stats.bytes_read += (payload.per == FUSCO_PER_ENTRY ? plan.kept : plan.tokens) * payload.row_bytes;
    stats.bytes_written += plan.kept * payload.row_bytes;
  }
  stats.rows = plan.kept;
}

void countCombine(const fusco_plan &plan, const fusco_combine_call &call, fusco_stats &stats) {
  stats.bytes_read = plan.kept * call.row_bytes;
  stats.bytes_written = plan.tokens * call.row_bytes;
  stats.rows = plan.kept;
}

void countWeightGradient(const fusco_plan &plan, const fusco_weight_gradient_call &call, fusco_stats &stats) {
  stats.bytes_read = (plan.kept + plan.tokens) * call.row_bytes;
  stats.bytes_written = plan.tokens * plan.topk * weightBytes;
  stats.rows = plan.kept;
}

// Each row is read once: what the two parts share is counted once.
void countCombineGradient(const fusco_plan &plan, const fusco_combine_gradient_call &call,
                          fusco_stats &stats) {
  stats.bytes_read = (plan.kept + plan.tokens) * call.row_bytes;
  stats.bytes_written = plan.kept * call.row_bytes + plan.tokens * plan.topk * weightBytes;
  stats.rows = plan.kept;
}

CombineGradientParts::CombineGradientParts(const fusco_combine_gradient_call &call) {
  payload_.per = FUSCO_PER_TOKEN;
  payload_.dtype = call.dtype;
  payload_.row_bytes = call.row_bytes;
  payload_.from = call.output_gradient;
  payload_.to = call.to;
  dispatch.payload_count = 1;
  dispatch.payloads = &payload_;
  dispatch.origins = call.origins;
  dispatch.scale = call.weights;
  weightGradient.dtype = call.dtype;
  weightGradient.row_bytes = call.row_bytes;
  weightGradient.output_gradient = call.output_gradient;
  weightGradient.from = call.from;
  weightGradient.to = call.weights_gradient;
}

}  // namespace fusco
