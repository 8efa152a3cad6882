#include "cuda.hpp"
#include "rows.hpp"

namespace fusco_node {

namespace {

// Reads the call first: its getters may close the context.
template <class Call>
Napi::Value enqueue(const Napi::CallbackInfo &info, Call (*read)(const Napi::Object &, uint32_t),
                    fusco_status (*work)(fusco_cuda_context *, uint32_t, const Call *, fusco_error *)) {
  const uint32_t rank = rankAt(info, 1);
  const Call call = read(objectArgument(info, 2), rank);
  fusco_error error{};
  must(info.Env(), work(CudaContext::handleOf(info[0]), rank, &call, &error), error);
  return info.Env().Undefined();
}

}  // namespace

Napi::Value cudaFp8Quantize(const Napi::CallbackInfo &info) {
  return enqueue(info, fp8CallOf, fusco_cuda_fp8_quantize);
}

Napi::Value cudaFp8Dequantize(const Napi::CallbackInfo &info) {
  return enqueue(info, fp8CallOf, fusco_cuda_fp8_dequantize);
}

Napi::Value cudaGate(const Napi::CallbackInfo &info) { return enqueue(info, gateCallOf, fusco_cuda_gate); }

Napi::Value cudaGateBackward(const Napi::CallbackInfo &info) {
  return enqueue(info, gateBackwardCallOf, fusco_cuda_gate_backward);
}

}  // namespace fusco_node
