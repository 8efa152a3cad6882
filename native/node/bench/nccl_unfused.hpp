// The JavaScript class NcclUnfused: the pipeline that fusion replaces, between processes.
#pragma once

#include "../nccl_plan.hpp"
#include "fusco_nccl_bench.h"

namespace fusco_node {

// The native pipeline, shared with the tasks that use it. The first of them makes it.
struct NcclUnfusedState {
  NcclUnfusedState(std::shared_ptr<NcclPlanState> owner, uint64_t bytes)
      : plan(std::move(owner)), rowBytes(bytes) {}

  fusco_status make(fusco_error *error) {
    if (!plan->isOpen()) return notOpen(error);
    if (handle != nullptr) return FUSCO_OK;
    return fusco_nccl_unfused_create(plan->handle, rowBytes, &handle, error);
  }

  std::shared_ptr<NcclPlanState> plan;
  uint64_t rowBytes;
  fusco_nccl_unfused *handle = nullptr;
};

class NcclUnfused : public Handle<NcclUnfused, std::shared_ptr<NcclUnfusedState>> {
 public:
  static constexpr char name[] = "NcclUnfused";
  static constexpr char label[] = "the pipeline";

  // (plan, rowBytes)
  explicit NcclUnfused(const Napi::CallbackInfo &info) : Handle(info) {
    const auto rowBytes = valueOf<uint64_t>(info[1], "rowBytes");
    handle_ = std::make_shared<NcclUnfusedState>(NcclPlan::handleOf(info[0]), rowBytes);
  }

  // (number, digest, call) -> Promise<stats>
  Napi::Value dispatch(const Napi::CallbackInfo &info) {
    return exchange<fusco_dispatch_call>(
        info, [](auto *pipeline, auto *number, const fusco_dispatch_call &call, auto *stats, auto *error) {
          if (call.payload_count != 1) return fail(error, FUSCO_E_OPTION, "the pipeline takes one payload");
          const fusco_payload &payload = call.payloads[0];
          return fusco_nccl_unfused_dispatch(pipeline, number, payload.from, payload.to, stats, error);
        });
  }
  Napi::Value combine(const Napi::CallbackInfo &info) {
    return exchange<fusco_combine_call>(
        info, [](auto *pipeline, auto *number, const fusco_combine_call &call, auto *stats, auto *error) {
          return fusco_nccl_unfused_combine(pipeline, number, &call, stats, error);
        });
  }
  // () -> Promise; before the plan is closed.
  Napi::Value close(const Napi::CallbackInfo &info) {
    Worker *worker = handle_ == nullptr ? nullptr : handle_->plan->group->worker.get();
    return closeLater(info, handle_, worker, [](NcclUnfusedState &state) {
      fusco_nccl_unfused_destroy(std::exchange(state.handle, nullptr));
    });
  }

 private:
  template <class C, class Run>
  Napi::Value exchange(const Napi::CallbackInfo &info, Run run) {
    const std::shared_ptr<NcclUnfusedState> state = open(info.Env());
    const fusco_nccl_call number = callNumberOf(info);
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
};

}  // namespace fusco_node
