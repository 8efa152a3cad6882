// The JavaScript class DevicePlan: a plan's tables in device memory, at fixed addresses.
#pragma once

#include "calls.hpp"
#include "cuda_context.hpp"
#include "plan_desc.hpp"

namespace fusco_node {

template <>
class Argument<const fusco_plan_desc *> : public PlanDesc {
 public:
  Argument(const Napi::Value &value, const std::string &name, Reading &reading)
      : PlanDesc(Fields(value, name, "", reading.keep)) {}
};

class DevicePlan : public Handle<DevicePlan, Owned<fusco_cuda_plan, fusco_cuda_plan_destroy>> {
 public:
  static constexpr char name[] = "DevicePlan";
  static constexpr char label[] = "the device plan";

  // (context, {the description of a plan, capacity?})
  explicit DevicePlan(const Napi::CallbackInfo &info) : Handle(info) {
    const Fields fields(info, 1, Napi::Array::New(info.Env()));
    const PlanDesc desc(fields);
    fusco_cuda_capacity capacity = fusco_sized<fusco_cuda_capacity>();
    if (fields.has("capacity")) {
      const Fields wanted(fields.at("capacity"), "capacity", fields);
      capacity.tokens = wanted.get<uint32_t>("tokens");
      capacity.topk = wanted.get<uint32_t>("topk");
      capacity.instances = wanted.get<uint32_t>("instances");
    }
    fusco_cuda_context *context = CudaContext::nativeOf(info[0]);
    make(info.Env(), fusco_cuda_plan_create, context, &capacity, desc.get());
    ranks_ = fusco_cuda_ranks(context);
  }

  uint32_t ranks() const { return ranks_; }

  // (call, path) -> report
  Napi::Value dispatch(const Napi::CallbackInfo &info) {
    const auto path = choiceOf<fusco_cuda_path>(
        info[1], "path",
        {{"auto", FUSCO_CUDA_PATH_AUTO}, {"direct", FUSCO_CUDA_PATH_DIRECT}, {"once", FUSCO_CUDA_PATH_ONCE}});
    return enqueue<fusco_dispatch_call>(info, [path](auto *plan, auto *call, auto *report, auto *error) {
      return fusco_cuda_dispatch(plan, path, call, report, error);
    });
  }
  // (call) -> report
  Napi::Value combine(const Napi::CallbackInfo &info) {
    return enqueue<fusco_combine_call>(info, fusco_cuda_combine);
  }
  Napi::Value weightGradient(const Napi::CallbackInfo &info) {
    return enqueue<fusco_weight_gradient_call>(info, fusco_cuda_weight_gradient);
  }

 private:
  template <class C, class Function>
  Napi::Value enqueue(const Napi::CallbackInfo &info, Function function) {
    const Call<C> call(Fields(info, 0, Napi::Array::New(info.Env())), ranks_);
    fusco_cuda_report report = fusco_sized<fusco_cuda_report>();
    run(info.Env(), function, open(info.Env()).get(), call.get(), &report);
    Napi::Object object = statsObject(info.Env(), report.stats);
    constexpr const char *paths[] = {"auto", "direct", "once"};
    object.Set("path", paths[report.path]);
    object.Set("tmaPayloads", report.tma_payloads);
    return object;
  }

  uint32_t ranks_ = 0;
};

template <>
struct ClassOf<fusco_cuda_plan> : std::type_identity<DevicePlan> {};

}  // namespace fusco_node
