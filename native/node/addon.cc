// The published addon. Each environment that loads it gets separate classes; nothing is static.

#include "exports.hpp"

namespace {

Napi::Object start(Napi::Env env, Napi::Object target) {
  fusco_node::Exports exports(target);
  fusco_node::describe(env, exports);
  return target;
}

}  // namespace

NODE_API_MODULE(fusco, start)
