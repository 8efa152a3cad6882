// The JavaScript classes DevicePlanner, which plans on the GPUs of a context, and BufferedPlan, a plan in
// plan buffers.
#pragma once

#include "calls.hpp"
#include "device_plan.hpp"
#include "planner.hpp"

namespace fusco_node {

class DevicePlanner : public Handle<DevicePlanner, Owned<fusco_cuda_planner, fusco_cuda_planner_destroy>> {
 public:
  static constexpr char name[] = "DevicePlanner";
  static constexpr char label[] = "the planner or its context";

  // (context, options, {maxTokens, maxRecvRows?})
  explicit DevicePlanner(const Napi::CallbackInfo &info);

  Napi::Value bufferBytes(const Napi::CallbackInfo &info);

 private:
  uint64_t bufferBytes_ = 0;
};

template <>
struct ClassOf<fusco_cuda_planner> : std::type_identity<DevicePlanner> {};

// {ids, dtype, tokens, topk} of `ranks` ranks, in device memory;
std::vector<fusco_ids> idsOf(const Napi::Value &list, uint32_t ranks, const Napi::Array &keep);
// Addresses of a view in a plan buffer.
Napi::Value viewFor(Napi::Env env, const fusco_cuda_plan_view &view);
// {maxTokens, maxRecvRows?}
fusco_cuda_plan_limits limitsOf(const Fields &fields);

class BufferedPlan : public Handle<BufferedPlan, Owned<fusco_cuda_plan, fusco_cuda_plan_destroy>> {
 public:
  static constexpr char name[] = "BufferedPlan";
  static constexpr char label[] = "the plan";

  // (planner, buffers, ids?): plans, or attaches plan buffers that are filled already.
  explicit BufferedPlan(const Napi::CallbackInfo &info);

  // (rank) -> {localInstances, expertCounts, expertOffsets, recvRows, overflowRows}: addresses
  Napi::Value describe(const Napi::CallbackInfo &info);
  // (rank) -> rows of the receive buffer; waits
  Napi::Value recvRows(const Napi::CallbackInfo &info);
  // (rank) -> Uint8Array; waits
  Napi::Value shard(const Napi::CallbackInfo &info);
  // (path, call) -> report
  Napi::Value dispatch(const Napi::CallbackInfo &info);
  // (call) -> report
  template <auto function>
  Napi::Value exchange(const Napi::CallbackInfo &info) {
    return exchange(info, function);
  }

 private:
  template <class C>
  Napi::Value exchange(const Napi::CallbackInfo &info,
                       fusco_status (*function)(fusco_cuda_plan *, const C *, fusco_cuda_report *,
                                                fusco_error *)) {
    const Call<C> call(Fields(info, 0, Napi::Array::New(info.Env())), ranks_);
    fusco_cuda_report report = fusco_sized<fusco_cuda_report>();
    run(info.Env(), function, open(info.Env()).get(), call.get(), &report);
    return valueFor(info.Env(), report);
  }
};

}  // namespace fusco_node
