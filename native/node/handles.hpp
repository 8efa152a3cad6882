// The JavaScript classes Context and Plan.
#pragma once

#include "engine.hpp"

namespace fusco_node {

class Context : public Napi::ObjectWrap<Context> {
 public:
  static Napi::Function define(Napi::Env env);

  // {threads?, streamBytes?, kernels?: 'auto' | 'portable'}
  explicit Context(const Napi::CallbackInfo &info);

  // The engine of `value`. Throws E_OPTION for another object and E_CLOSED after close().
  static std::shared_ptr<Engine> engineOf(const Napi::Value &value);

 private:
  Napi::Value threads(const Napi::CallbackInfo &info);
  Napi::Value kernels(const Napi::CallbackInfo &info);
  Napi::Value closed(const Napi::CallbackInfo &info);
  void close(const Napi::CallbackInfo &info);

  std::shared_ptr<Engine> engine_;
};

class Plan : public Napi::ObjectWrap<Plan> {
 public:
  static Napi::Function define(Napi::Env env);

  // (context, {ranksPerNode, strategy, shards})
  explicit Plan(const Napi::CallbackInfo &info);
  void Finalize(Napi::Env env) override;

  // The open plan of `value`. Throws E_OPTION for another object and E_CLOSED after close().
  static std::shared_ptr<PlanState> stateOf(const Napi::Value &value);

 private:
  bool isClosed() const;
  std::shared_ptr<PlanState> open(Napi::Env env) const;
  Napi::Value later(const Napi::CallbackInfo &info, Exchange exchange);
  Napi::Value now(const Napi::CallbackInfo &info, Exchange exchange);

  Napi::Value closed(const Napi::CallbackInfo &info);
  Napi::Value dispatch(const Napi::CallbackInfo &info);
  Napi::Value dispatchSync(const Napi::CallbackInfo &info);
  Napi::Value combine(const Napi::CallbackInfo &info);
  Napi::Value combineSync(const Napi::CallbackInfo &info);
  Napi::Value weightGradient(const Napi::CallbackInfo &info);
  Napi::Value weightGradientSync(const Napi::CallbackInfo &info);
  void close(const Napi::CallbackInfo &info);

  std::shared_ptr<PlanState> state_;
  int64_t bytes_ = 0;
};

}  // namespace fusco_node
