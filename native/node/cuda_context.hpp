// The JavaScript classes CudaContext, of devices, streams and device memory, CudaEvent, of a rank's stream,
// and CudaGraph, of captured work. Nothing in the CUDA classes waits for the GPU unless the C interface says
// that it waits.
#pragma once

#include "fusco_cuda.h"
#include "handle.hpp"

namespace fusco_node {

class CudaContext : public Handle<CudaContext, Owned<fusco_cuda_context, fusco_cuda_context_destroy>> {
 public:
  static constexpr char name[] = "CudaContext";
  static constexpr char label[] = "the CUDA context";

  // (ranks, devices?)
  explicit CudaContext(const Napi::CallbackInfo &info) : Handle(info) {
    const auto ranks = valueOf<uint32_t>(info[0], "ranks");
    const std::vector<uint32_t> devices = devicesOf(info[1], ranks);
    fusco_cuda_context *made = nullptr;
    run(info.Env(), fusco_cuda_context_create, ranks, devices.empty() ? nullptr : devices.data(), &made);
    handle_.reset(made);
    ranks_ = ranks;
  }

  // (rank, to, from, bytes)
  void copy(const Napi::CallbackInfo &info) {
    const Napi::Env env = info.Env();
    Napi::Array keep = Napi::Array::New(env);
    const auto rank = valueOf<uint32_t>(info[0], "rank");
    const fusco_buffer to = memoryOf(info[1], "to", rank, keep);
    const fusco_buffer from = memoryOf(info[2], "from", rank, keep);
    const auto bytes = valueOf<uint64_t>(info[3], "bytes");
    if (bytes > to.bytes || bytes > from.bytes) {
      refuse(env, FUSCO_E_BUFFER, "a copy of more bytes than its buffers have", static_cast<int32_t>(rank));
    }
    run(env, fusco_cuda_copy, open(env).get(), rank, to.data, from.data, bytes);
  }

 private:
  // The device of each rank; empty for undefined.
  static std::vector<uint32_t> devicesOf(const Napi::Value &value, uint32_t ranks) {
    std::vector<uint32_t> devices;
    if (value.IsUndefined()) return devices;
    if (!value.IsArray() || value.As<Napi::Array>().Length() != ranks) {
      refuse(value.Env(), FUSCO_E_OPTION, "devices must be an array with one device per rank");
    }
    for (uint32_t rank = 0; rank < ranks; rank++) {
      const std::string device = "the device of rank " + std::to_string(rank);
      devices.push_back(valueOf<uint32_t>(value.As<Napi::Array>().Get(rank), device));
    }
    return devices;
  }
};

template <>
struct ClassOf<fusco_cuda_context> : std::type_identity<CudaContext> {};

// (context, rank)
using CudaEvent = CreatedHandle<"CudaEvent", "the event", fusco_cuda_event_create, fusco_cuda_event_destroy>;

template <>
struct ClassOf<fusco_cuda_event> : std::type_identity<CudaEvent> {};

// (context): ends its capture.
using CudaGraph = CreatedHandle<"CudaGraph", "the graph", fusco_cuda_capture_end, fusco_cuda_graph_destroy>;

template <>
struct ClassOf<fusco_cuda_graph> : std::type_identity<CudaGraph> {};

// () -> {built, devices: [...], reason?}
inline Napi::Value cudaDevices(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  Napi::Array devices = Napi::Array::New(env);
  result.Set("built", fusco_cuda_built() != 0);
  result.Set("devices", devices);
  fusco_error error{};
  uint32_t count = 0;
  if (fusco_cuda_device_count(&count, &error) != FUSCO_OK) {
    result.Set("reason", std::string(error.message));
    return result;
  }
  for (uint32_t i = 0; i < count; i++) {
    fusco_cuda_device_info device = fusco_sized<fusco_cuda_device_info>();
    run(env, fusco_cuda_device, i, &device);
    Napi::Object object = Napi::Object::New(env);
    object.Set("name", std::string(device.name));
    object.Set("compute", std::to_string(device.compute_major) + "." + std::to_string(device.compute_minor));
    setNumbers(object, {{"totalBytes", device.total_bytes},
                        {"freeBytes", device.free_bytes},
                        {"sms", device.sms},
                        {"driver", device.driver},
                        {"runtime", device.runtime}});
    devices.Set(i, object);
  }
  return result;
}

}  // namespace fusco_node
