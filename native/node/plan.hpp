// The JavaScript class Plan: a plan of the host backend.
#pragma once

#include "calls.hpp"
#include "context.hpp"
#include "plan_desc.hpp"

namespace fusco_node {

class Plan : public Handle<Plan, std::shared_ptr<PlanState>> {
 public:
  static constexpr char name[] = "Plan";
  static constexpr char label[] = "the plan or its context";

  // (context, {ranksPerNode, strategy, partial, sum, shards})
  explicit Plan(const Napi::CallbackInfo &info) : Handle(info) {
    Reading reading{Napi::Array::New(info.Env())};
    const Argument<const fusco_plan_desc *> desc(info[1], "argument 1", reading);
    const std::shared_ptr<Engine> engine = Context::handleOf(info[0]);
    handle_ = std::make_shared<PlanState>(info.Env(), engine, *desc.get());
    engine->adopt(handle_);
    ranks_ = desc.get()->ranks;
    // The collector cannot see native memory; without this it would be in no hurry to collect plans.
    bytes_ = static_cast<int64_t>(fusco_plan_bytes(handle_->handle()));
    Napi::MemoryManagement::AdjustExternalMemory(info.Env(), bytes_);
  }
  void Finalize(Napi::Env env) override { forgetBytes(env); }

  fusco_plan *native() const { return handle_->handle(); }
  bool isClosed() const { return handle_ == nullptr || handle_->engine().closed(); }

  // An exchange on the thread of the context: (call) -> Promise of stats.
  template <auto exchange>
  Napi::Value later(const Napi::CallbackInfo &info) {
    return later(info, exchange);
  }
  // Tasks in flight hold the state; the last of them frees it.
  void close(const Napi::CallbackInfo &info) {
    handle_ = nullptr;
    forgetBytes(info.Env());
  }

 private:
  template <class C>
  using ExchangeFunction = fusco_status(fusco_plan *, const C *, fusco_stats *, fusco_error *);

  template <class C>
  Napi::Value later(const Napi::CallbackInfo &info, ExchangeFunction<C> *exchange) {
    const std::shared_ptr<PlanState> state = open(info.Env());
    const Napi::Array keep = Napi::Array::New(info.Env());
    const auto call = std::make_shared<Call<C>>(Fields(info, 0, keep), ranks_);
    // Reading the call may run the caller's getters, and one of them may close this plan.
    open(info.Env());
    const auto stats = std::make_shared<fusco_stats>();
    return state->engine().worker().submit(
        [=](fusco_error *error) { return exchange(state->handle(), call->get(), stats.get(), error); },
        [=](Napi::Env env) { return statsObject(env, *stats); }, keep);
  }

  void forgetBytes(Napi::Env env) {
    if (bytes_ > 0) Napi::MemoryManagement::AdjustExternalMemory(env, -bytes_);
    bytes_ = 0;
  }

  int64_t bytes_ = 0;
};

template <>
struct ClassOf<fusco_plan> : std::type_identity<Plan> {};

}  // namespace fusco_node
