#include "cuda_rows.hpp"

#include "alignment.hpp"
#include "e4m3.hpp"
#include "fp8.hpp"
#include "gate.hpp"
#include "kernels.hpp"
#include "row_launch.hpp"

namespace fusco::cuda {

namespace {

// Checks, then launches on the device and the stream of a rank. What the checks refuse names the rank.
template <class Check, class Launch>
void onRank(CudaContext &context, uint32_t rank, const char *what, Check check, Launch launch) {
  context.checkRank(rank);
  try {
    check();
  } catch (Failure &failure) {
    throw failure.atRank(rank);
  }
  const uint32_t device = context.deviceOf(rank);
  const OnDevice here(device);
  for (const DeviceGroup &group : context.groups()) {
    if (group.device == device) context.check(launch(group.limits, context.stream(rank)), what);
  }
}

// Memory that is used must be the device's, and its elements must lie at multiples of their size.
void checkMemory(CudaContext &context, uint32_t rank, const char *name, const fusco_buffer &buffer,
                 uint32_t elementSize) {
  if (buffer.data == nullptr || buffer.bytes == 0) return;
  context.checkReach(name, rank, buffer.data);
  checkAligned(name, bitsOf(buffer), elementSize);
}

void convert(CudaContext &context, uint32_t rank, const fusco_fp8_call &call, const char *what,
             Fp8Direction direction) {
  const auto check = [&] {
    checkFp8(call);
    checkMemory(context, rank, "values", call.values, elementBytes(call.dtype));
    checkMemory(context, rank, "codes", call.codes, 1);
    checkMemory(context, rank, "scales", call.scales, F32::bytes);
  };
  onRank(context, rank, what, check, [&](const DeviceLimits &limits, cudaStream_t stream) {
    Fp8Params params{};
    params.values = static_cast<uint8_t *>(call.values.data);
    params.codes = static_cast<uint8_t *>(call.codes.data);
    params.scales = static_cast<float *>(call.scales.data);
    params.hidden = call.hidden;
    params.rowBlocks = fp8Blocks(call.hidden);
    params.blocks = call.rows * params.rowBlocks;
    // Codes of 16 bytes of values.
    const uint64_t width = 16 / elementBytes(call.dtype);
    const bool wide = bitsOf(call.values) % 16 == 0 && (bitsOf(call.codes) | call.hidden) % width == 0;
    return launchFp8(params, direction, call.dtype, wide, limits, stream);
  });
}

}  // namespace

void quantize(CudaContext &context, uint32_t rank, const fusco_fp8_call &call) {
  convert(context, rank, call, "launching a conversion to fp8", Fp8Direction::quantize);
}

void dequantize(CudaContext &context, uint32_t rank, const fusco_fp8_call &call) {
  convert(context, rank, call, "launching a conversion from fp8", Fp8Direction::dequantize);
}

void gate(CudaContext &context, uint32_t rank, const fusco_gate_call &call) {
  const auto check = [&] {
    checkGate(call);
    checkMemory(context, rank, "logits", call.logits, F32::bytes);
    checkMemory(context, rank, "bias", call.bias, F32::bytes);
    checkMemory(context, rank, "ids", call.ids, F32::bytes);
    checkMemory(context, rank, "weights", call.weights, F32::bytes);
    checkMemory(context, rank, "scores", call.scores, F32::bytes);
  };
  const GateParams params = {call.options,
                             call.tokens,
                             static_cast<const float *>(call.logits.data),
                             static_cast<const float *>(call.bias.data),
                             static_cast<int32_t *>(call.ids.data),
                             static_cast<float *>(call.weights.data),
                             static_cast<float *>(call.scores.data)};
  onRank(context, rank, "launching a gate", check,
         [&](const DeviceLimits &limits, cudaStream_t stream) { return launchGate(params, limits, stream); });
}

void gateBackward(CudaContext &context, uint32_t rank, const fusco_gate_backward_call &call) {
  const auto check = [&] {
    checkGateBackward(call);
    checkMemory(context, rank, "ids", call.ids, F32::bytes);
    checkMemory(context, rank, "scores", call.scores, F32::bytes);
    checkMemory(context, rank, "weights gradient", call.weights_gradient, F32::bytes);
    checkMemory(context, rank, "logits gradient", call.logits_gradient, F32::bytes);
  };
  const GateBackwardParams params = {call.options,
                                     call.tokens,
                                     static_cast<const int32_t *>(call.ids.data),
                                     static_cast<const float *>(call.scores.data),
                                     static_cast<const float *>(call.weights_gradient.data),
                                     static_cast<float *>(call.logits_gradient.data)};
  onRank(context, rank, "launching the gradient of a gate", check,
         [&](const DeviceLimits &limits, cudaStream_t stream) {
           return launchGateBackward(params, limits, stream);
         });
}

}  // namespace fusco::cuda
