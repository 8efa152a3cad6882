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
  explicit Context(const Napi::CallbackInfo &info) : Handle(info) {
    const Fields fields(info, 0, Napi::Array::New(info.Env()));
    fusco_context_options options = fusco_sized<fusco_context_options>();
    options.threads = fields.get<uint32_t>("threads");
    options.nontemporal_bytes = fields.get<uint64_t>("nonTemporalBytes");
    options.kernels = fields.choice<fusco_kernels>(
        "kernels", {{"auto", FUSCO_KERNELS_AUTO}, {"portable", FUSCO_KERNELS_PORTABLE}});
    handle_ = std::make_shared<Engine>(info.Env(), options);
  }

  fusco_context *native() const { return handle_->handle(); }
  bool isClosed() const { return handle_ == nullptr || handle_->closed(); }

  void close(const Napi::CallbackInfo &) { handle_->close(); }
};

template <>
struct ClassOf<fusco_context> : std::type_identity<Context> {};

}  // namespace fusco_node
