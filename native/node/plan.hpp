// The JavaScript class Plan: a plan of the host backend.
#pragma once

#include "calls.hpp"
#include "context.hpp"

namespace fusco_node {

class Plan : public Handle<Plan, std::shared_ptr<PlanState>> {
 public:
  static constexpr char name[] = "Plan";
  static constexpr char label[] = "the plan or its context";

  // (context, {ranksPerNode, strategy, partial, shards})
  explicit Plan(const Napi::CallbackInfo &info);
  void Finalize(Napi::Env env) override;

  bool isClosed() const { return handle_ == nullptr || handle_->engine().closed(); }

  // An exchange on the thread of the context: (call) -> Promise of stats.
  template <auto exchange>
  Napi::Value later(const Napi::CallbackInfo &info) {
    return later(info, exchange);
  }
  // The same on the calling thread: (call) -> stats.
  template <auto exchange>
  Napi::Value now(const Napi::CallbackInfo &info) {
    return now(info, exchange);
  }
  void close(const Napi::CallbackInfo &info);

 private:
  template <class C>
  using ExchangeFunction = fusco_status(fusco_plan *, const C *, fusco_stats *, fusco_error *);

  template <class C>
  Napi::Value later(const Napi::CallbackInfo &info, ExchangeFunction<C> *exchange) {
    const std::shared_ptr<PlanState> state = open(info.Env());
    const Napi::Array keep = Napi::Array::New(info.Env());
    const auto call = std::make_shared<Call<C>>(Fields(info, 0, keep), fusco_plan_ranks(state->handle()));
    // Reading the call may run the caller's getters, and one of them may close this plan.
    open(info.Env());
    const auto stats = std::make_shared<fusco_stats>();
    return state->engine().worker().submit(
        [=](fusco_error *error) { return exchange(state->handle(), call->get(), stats.get(), error); },
        [=](Napi::Env env) { return statsObject(env, *stats); }, keep);
  }

  template <class C>
  Napi::Value now(const Napi::CallbackInfo &info, ExchangeFunction<C> *exchange) {
    const std::shared_ptr<PlanState> state = open(info.Env());
    const Call<C> call(Fields(info, 0, Napi::Array::New(info.Env())), fusco_plan_ranks(state->handle()));
    open(info.Env());
    fusco_stats stats{};
    fusco_error error{};
    check(info.Env(), exchange(state->handle(), call.get(), &stats, &error), error);
    return statsObject(info.Env(), stats);
  }

  int64_t bytes_ = 0;
};

}  // namespace fusco_node
