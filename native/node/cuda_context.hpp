// The JavaScript class CudaContext: devices, streams and device memory. Nothing in the CUDA classes waits for
// the GPU unless the C interface says that it waits.
#pragma once

#include "fusco_cuda.h"
#include "handle.hpp"

namespace fusco_node {

// () -> {built, devices: [...], reason?}
Napi::Value cudaDevices(const Napi::CallbackInfo &info);

class CudaContext : public Handle<CudaContext, Owned<fusco_cuda_context, fusco_cuda_context_destroy>> {
 public:
  static constexpr char name[] = "CudaContext";
  static constexpr char label[] = "the CUDA context";

  // (ranks, devices?)
  explicit CudaContext(const Napi::CallbackInfo &info);

  // (rank, to, from, bytes)
  void copy(const Napi::CallbackInfo &info);
};

template <>
struct ClassOf<fusco_cuda_context> {
  using type = CudaContext;
};

}  // namespace fusco_node
