// What JavaScript sees. executor/native/addon.ts types it; a test compares that file with `signatures`.

#include "bench.hpp"
#include "cuda.hpp"
#include "handles.hpp"
#include "nccl.hpp"
#include "rows.hpp"

namespace fusco_node {

namespace {

struct Member {
  const char *name;
  // Arguments, or -1 for a property.
  int arity;
};

// Adds `owner: {name: arity}`, properties as null, to the table that the typing is tested against.
void sign(Napi::Object signatures, const char *owner, std::initializer_list<Member> members) {
  const Napi::Env env = signatures.Env();
  Napi::Object table = Napi::Object::New(env);
  for (const Member &member : members) {
    const auto arity = Napi::Number::New(env, member.arity);
    table.Set(member.name, member.arity < 0 ? env.Null() : arity.As<Napi::Value>());
  }
  signatures.Set(owner, table);
}

Napi::Object signaturesOf(Napi::Env env) {
  Napi::Object all = Napi::Object::New(env);
  sign(all, "Context", {{"constructor", 1}, {"threads", -1}, {"kernels", -1}, {"closed", -1}, {"close", 0}});
  sign(all, "Plan",
       {{"constructor", 2},
        {"closed", -1},
        {"dispatch", 1},
        {"dispatchSync", 1},
        {"combine", 1},
        {"combineSync", 1},
        {"weightGradient", 1},
        {"weightGradientSync", 1},
        {"close", 0}});
  sign(all, "Unfused", {{"constructor", 2}, {"dispatchSync", 2}, {"combineSync", 1}, {"close", 0}});
  sign(all, "CudaContext",
       {{"constructor", 2},
        {"alloc", 2},
        {"free", 1},
        {"copy", 4},
        {"fill", 4},
        {"stream", 1},
        {"setStream", 2},
        {"limitMultiprocessors", 1},
        {"spin", 2},
        {"synchronize", 0},
        {"captureBegin", 0},
        {"close", 0}});
  sign(all, "CudaPlan",
       {{"constructor", 2},
        {"bytes", -1},
        {"upload", 1},
        {"dispatch", 2},
        {"combine", 1},
        {"weightGradient", 1},
        {"close", 0}});
  sign(all, "CudaEvent",
       {{"constructor", 2},
        {"record", 0},
        {"wait", 1},
        {"query", 0},
        {"synchronize", 0},
        {"since", 1},
        {"close", 0}});
  sign(all, "CudaGraph", {{"constructor", 1}, {"launch", 0}, {"close", 0}});
  sign(all, "CudaUnfused", {{"constructor", 2}, {"dispatch", 2}, {"combine", 1}, {"close", 0}});
  sign(all, "NcclGroup", {{"constructor", 2}, {"open", 0}, {"allGather", 3}, {"abort", 1}, {"close", 0}});
  sign(all, "NcclPlan",
       {{"constructor", 2},
        {"open", 2},
        {"bytes", 1},
        {"dispatch", 4},
        {"combine", 4},
        {"weightGradient", 4},
        {"unfusedDispatch", 4},
        {"unfusedCombine", 4},
        {"close", 0}});
  sign(all, "functions",
       {{"addressOf", 1},
        {"benchCopy", 4},
        {"benchSlots", 4},
        {"cudaDevices", 0},
        {"ncclLibrary", 1},
        {"ncclUniqueId", 0}});
  sign(all, "rows", {{"fp8Quantize", 2}, {"fp8Dequantize", 2}, {"gate", 2}, {"gateBackward", 2}});
  sign(all, "cudaRows",
       {{"cudaFp8Quantize", 3}, {"cudaFp8Dequantize", 3}, {"cudaGate", 3}, {"cudaGateBackward", 3}});
  return all;
}

std::string versionText() {
  const uint32_t version = fusco_version();
  return std::to_string(version >> 16) + "." + std::to_string(version >> 8 & 255) + "." +
         std::to_string(version & 255);
}

}  // namespace

// One for each environment that loads the addon; there is no state outside of it.
class Fusco : public Napi::Addon<Fusco> {
 public:
  Fusco(Napi::Env env, Napi::Object exports) {
    DefineAddon(exports, {
                             InstanceValue("version", Napi::String::New(env, versionText()), napi_enumerable),
                             InstanceValue("signatures", signaturesOf(env), napi_enumerable),
                             InstanceValue("Context", Context::define(env), napi_enumerable),
                             InstanceValue("Plan", Plan::define(env), napi_enumerable),
                             InstanceValue("Unfused", Unfused::define(env), napi_enumerable),
                             InstanceMethod<&Fusco::addressOf>("addressOf", napi_enumerable),
                             InstanceValue("CudaContext", CudaContext::define(env), napi_enumerable),
                             InstanceValue("CudaPlan", CudaPlan::define(env), napi_enumerable),
                             InstanceValue("CudaEvent", CudaEvent::define(env), napi_enumerable),
                             InstanceValue("CudaGraph", CudaGraph::define(env), napi_enumerable),
                             InstanceValue("CudaUnfused", CudaUnfused::define(env), napi_enumerable),
                             InstanceValue("NcclGroup", NcclGroup::define(env), napi_enumerable),
                             InstanceValue("NcclPlan", NcclPlan::define(env), napi_enumerable),
                             InstanceMethod<&Fusco::fp8Quantize>("fp8Quantize", napi_enumerable),
                             InstanceMethod<&Fusco::fp8Dequantize>("fp8Dequantize", napi_enumerable),
                             InstanceMethod<&Fusco::gate>("gate", napi_enumerable),
                             InstanceMethod<&Fusco::gateBackward>("gateBackward", napi_enumerable),
                             InstanceMethod<&Fusco::cudaFp8Quantize>("cudaFp8Quantize", napi_enumerable),
                             InstanceMethod<&Fusco::cudaFp8Dequantize>("cudaFp8Dequantize", napi_enumerable),
                             InstanceMethod<&Fusco::cudaGate>("cudaGate", napi_enumerable),
                             InstanceMethod<&Fusco::cudaGateBackward>("cudaGateBackward", napi_enumerable),
                             InstanceMethod<&Fusco::benchCopy>("benchCopy", napi_enumerable),
                             InstanceMethod<&Fusco::benchSlots>("benchSlots", napi_enumerable),
                             InstanceMethod<&Fusco::cudaDevices>("cudaDevices", napi_enumerable),
                             InstanceMethod<&Fusco::ncclLibrary>("ncclLibrary", napi_enumerable),
                             InstanceMethod<&Fusco::ncclUniqueId>("ncclUniqueId", napi_enumerable),
                         });
  }

 private:
  Napi::Value fp8Quantize(const Napi::CallbackInfo &info) { return fusco_node::fp8Quantize(info); }
  Napi::Value fp8Dequantize(const Napi::CallbackInfo &info) { return fusco_node::fp8Dequantize(info); }
  Napi::Value gate(const Napi::CallbackInfo &info) { return fusco_node::gate(info); }
  Napi::Value gateBackward(const Napi::CallbackInfo &info) { return fusco_node::gateBackward(info); }
  Napi::Value cudaFp8Quantize(const Napi::CallbackInfo &info) { return fusco_node::cudaFp8Quantize(info); }
  Napi::Value cudaFp8Dequantize(const Napi::CallbackInfo &info) {
    return fusco_node::cudaFp8Dequantize(info);
  }
  Napi::Value cudaGate(const Napi::CallbackInfo &info) { return fusco_node::cudaGate(info); }
  Napi::Value cudaGateBackward(const Napi::CallbackInfo &info) { return fusco_node::cudaGateBackward(info); }
  Napi::Value addressOf(const Napi::CallbackInfo &info) {
    Napi::Array keep = Napi::Array::New(info.Env());
    const fusco_buffer memory = memoryOf(info[0], "the memory", 0, keep);
    return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(reinterpret_cast<uintptr_t>(memory.data)));
  }
  Napi::Value benchCopy(const Napi::CallbackInfo &info) { return fusco_node::benchCopy(info); }
  Napi::Value cudaDevices(const Napi::CallbackInfo &info) { return fusco_node::cudaDevices(info); }
  Napi::Value ncclLibrary(const Napi::CallbackInfo &info) { return fusco_node::ncclLibrary(info); }
  Napi::Value ncclUniqueId(const Napi::CallbackInfo &info) { return fusco_node::ncclUniqueId(info); }
  Napi::Value benchSlots(const Napi::CallbackInfo &info) { return fusco_node::benchSlots(info); }
};

}  // namespace fusco_node

using FuscoAddon = fusco_node::Fusco;
NODE_API_ADDON(FuscoAddon)
