#include "device_call_checks.hpp"

#include "call_checks.hpp"
#include "kernels.hpp"

namespace fusco::cuda {

namespace {

// Optional arrays may be null. Opaque rows have elements of one byte.
void checkMemory(const fusco_plan &plan, const char *name, const fusco_buffer *buffers, uint32_t elementSize,
                 const CheckReach &reach) {
  if (buffers == nullptr) return;
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    if (buffers[rank].bytes > 0) reach(name, rank, buffers[rank]);
  }
  checkAligned(name, bitsOf(buffers, plan.ranks), elementSize);
}

}  // namespace

void checkDeviceCall(const fusco_plan &plan, const fusco_dispatch_call &call, const CheckReach &reach) {
  checkDispatchCall(plan, call);
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    const bool isScaled = call.scale != nullptr && payload.per == FUSCO_PER_TOKEN;
    const uint32_t elementSize = isScaled ? elementBytes(payload.dtype) : 1;
    checkMemory(plan, "from", payload.from, elementSize, reach);
    checkMemory(plan, "to", payload.to, elementSize, reach);
  }
  checkMemory(plan, "origins", call.origins, sizeof(int32_t), reach);
  checkMemory(plan, "scale", call.scale, weightBytes, reach);
}

void checkDeviceCall(const fusco_plan &plan, const fusco_combine_call &call, const CheckReach &reach) {
  checkCombineCall(plan, call);
  checkMemory(plan, "from", call.from, elementBytes(call.dtype), reach);
  checkMemory(plan, "to", call.to, elementBytes(call.dtype), reach);
  checkMemory(plan, "weights", call.weights, weightBytes, reach);
}

void checkDeviceCall(const fusco_plan &plan, const fusco_weight_gradient_call &call,
                     const CheckReach &reach) {
  checkWeightGradientCall(plan, call);
  checkMemory(plan, "outputGradient", call.output_gradient, elementBytes(call.dtype), reach);
  checkMemory(plan, "from", call.from, elementBytes(call.dtype), reach);
  checkMemory(plan, "to", call.to, weightBytes, reach);
}

void checkDeviceCall(const fusco_plan &plan, const fusco_combine_gradient_call &call,
                     const CheckReach &reach) {
  checkCombineGradientCall(plan, call);
  checkMemory(plan, "outputGradient", call.output_gradient, elementBytes(call.dtype), reach);
  checkMemory(plan, "from", call.from, elementBytes(call.dtype), reach);
  checkMemory(plan, "weights", call.weights, weightBytes, reach);
  checkMemory(plan, "to", call.to, elementBytes(call.dtype), reach);
  checkMemory(plan, "weightsGradient", call.weights_gradient, weightBytes, reach);
  checkMemory(plan, "origins", call.origins, sizeof(int32_t), reach);
}

}  // namespace fusco::cuda
