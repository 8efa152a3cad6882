#include "call_checks.hpp"

#include <cstdio>

namespace fusco {

void checkCall(const fusco_plan &plan, const fusco_dispatch_call &call, const CheckMemory &each) {
  BufferCheck buffers(plan, each);
  if (call.payload_count > 0 && call.payloads == nullptr) {
    throw Failure(FUSCO_E_OPTION, "%u payloads, but none were given", call.payload_count);
  }
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    char from[28];
    char to[28];
    std::snprintf(from, sizeof from, "payload %u: from", p);
    std::snprintf(to, sizeof to, "payload %u: to", p);
    RowShape row = checkRowBytes(payload.row_bytes);
    if (payload.per == FUSCO_PER_TOKEN) {
      if (call.scale != nullptr) row = checkNumbers(payload.dtype, payload.row_bytes);
      buffers.tokens(from, payload.from, row, false);
    } else if (payload.per == FUSCO_PER_ENTRY) {
      buffers.entries(from, payload.from, row, false);
    } else {
      throw Failure(FUSCO_E_OPTION, "payload %u: per is %d; it must be 0 or 1", p, payload.per);
    }
    buffers.received(to, payload.to, row, true);
  }
  if (call.origins != nullptr) buffers.received("origins", call.origins, originRow, true);
  if (call.scale != nullptr) buffers.entries("scale", call.scale, weightRow, false);
  buffers.refuseOverlap();
}

void checkCall(const fusco_plan &plan, const fusco_combine_call &call, const CheckMemory &each) {
  const RowShape row = checkNumbers(call.dtype, call.row_bytes);
  BufferCheck buffers(plan, each);
  buffers.received("from", call.from, row, false);
  buffers.tokens("to", call.to, row, true);
  if (call.weights != nullptr) buffers.entries("weights", call.weights, weightRow, false);
  buffers.refuseOverlap();
}

void checkCall(const fusco_plan &plan, const fusco_weight_gradient_call &call, const CheckMemory &each) {
  const RowShape row = checkNumbers(call.dtype, call.row_bytes);
  BufferCheck buffers(plan, each);
  buffers.tokens("outputGradient", call.output_gradient, row, false);
  buffers.received("from", call.from, row, false);
  buffers.entries("to", call.to, weightRow, true);
  buffers.refuseOverlap();
}

void checkCall(const fusco_plan &plan, const fusco_combine_gradient_call &call, const CheckMemory &each) {
  const RowShape row = checkNumbers(call.dtype, call.row_bytes);
  BufferCheck buffers(plan, each);
  buffers.tokens("outputGradient", call.output_gradient, row, false);
  buffers.received("from", call.from, row, false);
  buffers.entries("weights", call.weights, weightRow, false);
  buffers.received("to", call.to, row, true);
  buffers.entries("weightsGradient", call.weights_gradient, weightRow, true);
  if (call.origins != nullptr) buffers.received("origins", call.origins, originRow, true);
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
