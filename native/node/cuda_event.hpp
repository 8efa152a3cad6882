// The JavaScript class CudaEvent: an event of a rank's stream.
#pragma once

#include "cuda_context.hpp"

namespace fusco_node {

class CudaEvent : public Handle<CudaEvent, Owned<fusco_cuda_event, fusco_cuda_event_destroy>> {
 public:
  static constexpr char name[] = "CudaEvent";
  static constexpr char label[] = "the event";

  // (context, rank)
  explicit CudaEvent(const Napi::CallbackInfo &info);

  // (start) -> milliseconds
  Napi::Value since(const Napi::CallbackInfo &info);
};

template <>
struct ClassOf<fusco_cuda_event> {
  using type = CudaEvent;
};

}  // namespace fusco_node
