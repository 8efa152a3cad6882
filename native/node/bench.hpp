// The baselines of native/bench for the project's own bench.
#pragma once

#include "fusco_bench.h"
#include "handles.hpp"

namespace fusco_node {

class Unfused : public Napi::ObjectWrap<Unfused> {
 public:
  static Napi::Function define(Napi::Env env);

  // (plan, {rowBytes})
  explicit Unfused(const Napi::CallbackInfo &info);
  ~Unfused() override { fusco_unfused_destroy(unfused_); }

 private:
  void checkOpen(Napi::Env env) const;
  Napi::Value dispatchSync(const Napi::CallbackInfo &info);
  Napi::Value combineSync(const Napi::CallbackInfo &info);
  void close(const Napi::CallbackInfo &info);

  std::shared_ptr<PlanState> plan_;
  fusco_unfused *unfused_ = nullptr;
};

// (context, 'memcpy' | 'stream', bytes, runs) -> nanoseconds
Napi::Value benchCopy(const Napi::CallbackInfo &info);
// (instances, instanceCount, unrolled, runs) -> nanoseconds
Napi::Value benchSlots(const Napi::CallbackInfo &info);

}  // namespace fusco_node
