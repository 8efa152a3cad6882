#include "cuda_event.hpp"

namespace fusco_node {

CudaEvent::CudaEvent(const Napi::CallbackInfo &info) : Handle(info) {
  handle_.reset(Bound<fusco_cuda_event_create>::invoke<0>(info));
}

Napi::Value CudaEvent::since(const Napi::CallbackInfo &info) {
  double milliseconds = 0;
  fusco_error error{};
  check(info.Env(),
        fusco_cuda_event_elapsed(nativeOf(info[0]), open(info.Env()).get(), &milliseconds, &error), error);
  return valueFor(info.Env(), milliseconds);
}

}  // namespace fusco_node
