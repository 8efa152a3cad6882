// The JavaScript class CudaEvent: an event of a rank's stream.
#pragma once

#include "cuda_context.hpp"

namespace fusco_node {

class CudaEvent : public Handle<CudaEvent, Owned<fusco_cuda_event, fusco_cuda_event_destroy>> {
 public:
  static constexpr char name[] = "CudaEvent";
  static constexpr char label[] = "the event";

  // (context, rank)
  explicit CudaEvent(const Napi::CallbackInfo &info) : Handle(info) {
    handle_.reset(Bound<fusco_cuda_event_create>::invoke<0>(info));
  }
};

template <>
struct ClassOf<fusco_cuda_event> : std::type_identity<CudaEvent> {};

}  // namespace fusco_node
