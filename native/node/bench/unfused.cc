#include "unfused.hpp"

namespace fusco_node {

Unfused::Unfused(const Napi::CallbackInfo &info) : Handle(info) {
  const auto rowBytes = valueOf<uint64_t>(info[1], "rowBytes");
  plan_ = Plan::handleOf(info[0]);
  fusco_unfused *made = nullptr;
  fusco_error error{};
  check(info.Env(), fusco_unfused_create(plan_->handle(), rowBytes, &made, &error), error);
  handle_.reset(made);
}

Napi::Value Unfused::dispatchSync(const Napi::CallbackInfo &info) {
  open(info.Env());
  const uint32_t ranks = fusco_plan_ranks(plan_->handle());
  Napi::Array keep = Napi::Array::New(info.Env());
  const std::vector<fusco_buffer> from = memoriesOf(info[0], "from", ranks, keep);
  const std::vector<fusco_buffer> to = memoriesOf(info[1], "to", ranks, keep);
  fusco_stats stats{};
  fusco_error error{};
  check(info.Env(), fusco_unfused_dispatch(open(info.Env()).get(), from.data(), to.data(), &stats, &error),
        error);
  return statsObject(info.Env(), stats);
}

Napi::Value Unfused::combineSync(const Napi::CallbackInfo &info) {
  open(info.Env());
  const Fields fields(info, 0, Napi::Array::New(info.Env()));
  const Call<fusco_combine_call> call(fields, fusco_plan_ranks(plan_->handle()));
  fusco_stats stats{};
  fusco_error error{};
  check(info.Env(), fusco_unfused_combine(open(info.Env()).get(), call.get(), &stats, &error), error);
  return statsObject(info.Env(), stats);
}

}  // namespace fusco_node
