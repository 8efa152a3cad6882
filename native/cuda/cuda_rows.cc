#include "cuda_rows.hpp"

#include "buffers.hpp"
#include "device_call_checks.hpp"
#include "e4m3.hpp"
#include "fp8.hpp"
#include "gate.hpp"
#include "kernels.hpp"
#include "row_launch.hpp"

namespace fusco::cuda {

namespace {

// Launches on the device and the stream of a rank.
template <class Launch>
void launchOn(CudaContext &context, uint32_t rank, const char *what, Launch launch) {
  const uint32_t device = context.deviceOf(rank);
  const OnDevice here(device);
  for (const DeviceGroup &group : context.groups()) {
    if (group.device == device) context.check(launch(group.limits, context.stream(rank)), what);
  }
}

// Checks, then launches. What the checks refuse names the rank.
template <class Call, class Launch>
void onRank(CudaContext &context, uint32_t rank, const char *what, const Call &call,
            void (*check)(const Call &, const CheckMemory &), Launch launch) {
  context.checkRank(rank);
  const CheckReach reach = [&](const char *name, uint32_t, const fusco_buffer &buffer) {
    context.checkReach(name, rank, buffer.data);
  };
  try {
    check(call, checkDeviceMemory(reach));
  } catch (Failure &failure) {
    throw failure.atRank(rank);
  }
  launchOn(context, rank, what, launch);
}

void convert(CudaContext &context, uint32_t rank, const fusco_fp8_call &call, const char *what,
             Fp8Direction direction) {
  onRank(context, rank, what, call, checkFp8, [&](const DeviceLimits &limits, cudaStream_t stream) {
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

void clearRows(CudaContext &context, uint32_t rank, const fusco_buffer &rows, uint64_t rowBytes,
               const uint32_t *first) {
  context.checkRank(rank);
  checkRowBytes(rowBytes);
  if (rows.bytes % rowBytes != 0) {
    throw Failure(FUSCO_E_BUFFER, "%llu bytes are no whole number of rows of %llu bytes", rows.bytes,
                  rowBytes)
        .atRank(rank);
  }
  if (rows.bytes == 0) return;
  context.checkReach("rows", rank, rows.data);
  context.checkReach("first", rank, first);
  const ClearParams params = {static_cast<uint8_t *>(rows.data), rows.bytes, rowBytes, first};
  launchOn(context, rank, "launching a fill", [&](const DeviceLimits &limits, cudaStream_t stream) {
    return launchClear(params, limits, stream);
  });
}

void gate(CudaContext &context, uint32_t rank, const fusco_gate_call &call) {
  const GateParams params = {call.options,
                             call.tokens,
                             static_cast<const float *>(call.logits.data),
                             static_cast<const float *>(call.bias.data),
                             static_cast<int32_t *>(call.ids.data),
                             static_cast<float *>(call.weights.data),
                             static_cast<float *>(call.scores.data)};
  onRank(context, rank, "launching a gate", call, checkGate,
         [&](const DeviceLimits &limits, cudaStream_t stream) { return launchGate(params, limits, stream); });
}

void gateBackward(CudaContext &context, uint32_t rank, const fusco_gate_backward_call &call) {
  const GateBackwardParams params = {call.options,
                                     call.tokens,
                                     static_cast<const int32_t *>(call.ids.data),
                                     static_cast<const float *>(call.scores.data),
                                     static_cast<const float *>(call.weights_gradient.data),
                                     static_cast<float *>(call.logits_gradient.data)};
  onRank(context, rank, "launching the gradient of a gate", call, checkGateBackward,
         [&](const DeviceLimits &limits, cudaStream_t stream) {
           return launchGateBackward(params, limits, stream);
         });
}

}  // namespace fusco::cuda
