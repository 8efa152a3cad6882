#include "unfused.hpp"

namespace fusco_node {

fusco_status NcclUnfusedState::make(fusco_error *error) {
  if (!plan->isOpen()) return notOpen(error);
  if (handle != nullptr) return FUSCO_OK;
  return fusco_nccl_unfused_create(plan->handle, rowBytes, &handle, error);
}

NcclUnfused::NcclUnfused(const Napi::CallbackInfo &info) : Handle(info) {
  const auto rowBytes = valueOf<uint64_t>(info[1], "rowBytes");
  handle_ = std::make_shared<NcclUnfusedState>(NcclPlan::handleOf(info[0]), rowBytes);
}

template <class C, class Run>
Napi::Value NcclUnfused::exchange(const Napi::CallbackInfo &info, Run run) {
  const std::shared_ptr<NcclUnfusedState> state = open(info.Env());
  const fusco_nccl_step number = callNumberOf(info);
  const Napi::Array keep = Napi::Array::New(info.Env());
  const auto call = std::make_shared<Call<C>>(Fields(info, 2, keep), 1);
  const auto stats = std::make_shared<fusco_stats>();
  const auto work = [=](fusco_error *error) {
    const fusco_status made = state->make(error);
    return made != FUSCO_OK ? made : run(state->handle, &number, *call->get(), stats.get(), error);
  };
  const auto result = [=](Napi::Env env) -> Napi::Value { return statsObject(env, *stats); };
  return state->plan->group->worker->submit(work, result, keep);
}

Napi::Value NcclUnfused::dispatch(const Napi::CallbackInfo &info) {
  return exchange<fusco_dispatch_call>(
      info, [](auto *pipeline, auto *number, const fusco_dispatch_call &call, auto *stats, auto *error) {
        if (call.payload_count != 1) return fail(error, FUSCO_E_OPTION, "the pipeline takes one payload");
        return fusco_nccl_unfused_dispatch(pipeline, number, call.payloads->from, call.payloads->to, stats,
                                           error);
      });
}

Napi::Value NcclUnfused::combine(const Napi::CallbackInfo &info) {
  return exchange<fusco_combine_call>(
      info, [](auto *pipeline, auto *number, const fusco_combine_call &call, auto *stats, auto *error) {
        return fusco_nccl_unfused_combine(pipeline, number, &call, stats, error);
      });
}

Napi::Value NcclUnfused::close(const Napi::CallbackInfo &info) {
  if (handle_ == nullptr) return resolved(info.Env());
  const std::shared_ptr<NcclUnfusedState> state = std::move(handle_);
  const auto work = [state](fusco_error *) {
    fusco_nccl_unfused_destroy(state->handle);
    state->handle = nullptr;
    return FUSCO_OK;
  };
  return state->plan->group->worker->submit(work, nullptr, Napi::Array::New(info.Env()));
}

}  // namespace fusco_node
