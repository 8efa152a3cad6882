// The JavaScript class Context: the threads of the host backend.
#pragma once

#include "engine.hpp"
#include "handle.hpp"

namespace fusco_node {

class Context : public Handle<Context, std::shared_ptr<Engine>> {
 public:
  static constexpr char name[] = "Context";
  static constexpr char label[] = "the context";

  // ({threads?, nonTemporalBytes?, kernels?: 'auto' | 'portable'})
  explicit Context(const Napi::CallbackInfo &info);

  static fusco_context *nativeOf(const Napi::Value &value) { return handleOf(value)->handle(); }
  bool isClosed() const { return handle_ == nullptr || handle_->closed(); }

  Napi::Value threads(const Napi::CallbackInfo &info);
  Napi::Value kernels(const Napi::CallbackInfo &info);
  void close(const Napi::CallbackInfo &) { handle_->close(); }
};

template <>
struct ClassOf<fusco_context> {
  using type = Context;
};

}  // namespace fusco_node
