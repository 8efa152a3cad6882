#include "context.hpp"

namespace fusco_node {

Context::Context(const Napi::CallbackInfo &info) : Handle(info) {
  const Fields fields(info, 0, Napi::Array::New(info.Env()));
  fusco_context_options options{};
  options.threads = fields.get<uint32_t>("threads");
  options.stream_bytes = fields.get<uint64_t>("nonTemporalBytes");
  options.kernels = fields.choice<fusco_kernels>(
      "kernels", {{"auto", FUSCO_KERNELS_AUTO}, {"portable", FUSCO_KERNELS_PORTABLE}});
  handle_ = std::make_shared<Engine>(info.Env(), options);
}

Napi::Value Context::threads(const Napi::CallbackInfo &info) {
  return valueFor(info.Env(), fusco_context_threads(handle_->handle()));
}

Napi::Value Context::kernels(const Napi::CallbackInfo &info) {
  return valueFor(info.Env(), fusco_context_kernels(handle_->handle()));
}

}  // namespace fusco_node
