// The JavaScript class Unfused: the pipeline that fusion replaces, on the host.
#pragma once

#include "../plan.hpp"
#include "fusco_bench.h"

namespace fusco_node {

class Unfused : public Handle<Unfused, Owned<fusco_unfused, fusco_unfused_destroy>> {
 public:
  static constexpr char name[] = "Unfused";
  static constexpr char label[] = "the pipeline or its context";

  // (plan, rowBytes)
  explicit Unfused(const Napi::CallbackInfo &info) : Handle(info) {
    const auto rowBytes = valueOf<uint64_t>(info[1], "rowBytes");
    plan_ = Plan::handleOf(info[0]);
    make(info.Env(), fusco_unfused_create, plan_->handle(), rowBytes);
  }

  bool isClosed() const { return handle_ == nullptr || plan_->engine().closed(); }

  // (from, to) -> stats
  Napi::Value dispatchSync(const Napi::CallbackInfo &info) {
    open(info.Env());
    const uint32_t ranks = fusco_plan_ranks(plan_->handle());
    Napi::Array keep = Napi::Array::New(info.Env());
    const std::vector<fusco_buffer> from = memoriesOf(info[0], "from", ranks, keep);
    const std::vector<fusco_buffer> to = memoriesOf(info[1], "to", ranks, keep);
    fusco_stats stats{};
    run(info.Env(), fusco_unfused_dispatch, open(info.Env()).get(), from.data(), to.data(), &stats);
    return statsObject(info.Env(), stats);
  }
  // (call) -> stats
  Napi::Value combineSync(const Napi::CallbackInfo &info) {
    open(info.Env());
    const Fields fields(info, 0, Napi::Array::New(info.Env()));
    const Call<fusco_combine_call> call(fields, fusco_plan_ranks(plan_->handle()));
    fusco_stats stats{};
    run(info.Env(), fusco_unfused_combine, open(info.Env()).get(), call.get(), &stats);
    return statsObject(info.Env(), stats);
  }

 private:
  std::shared_ptr<PlanState> plan_;
};

}  // namespace fusco_node
