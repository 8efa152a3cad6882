#include "exports.hpp"

namespace fusco_node {

Exports::Exports(Napi::Object exports)
    : exports_(exports),
      signatures_(Napi::Object::New(exports.Env())),
      functions_(Napi::Object::New(exports.Env())) {
  const uint32_t version = fusco_version();
  exports_.Set("version", std::to_string(version >> 16) + "." + std::to_string(version >> 8 & 255) + "." +
                              std::to_string(version & 255));
  exports_.Set("signatures", signatures_);
  signatures_.Set("functions", functions_);
}

Exports &Exports::function(const char *name, Napi::Value (*target)(const Napi::CallbackInfo &),
                           size_t arity) {
  exports_.Set(name, Napi::Function::New(exports_.Env(), target, name));
  functions_.Set(name, static_cast<uint32_t>(arity));
  return *this;
}

}  // namespace fusco_node
