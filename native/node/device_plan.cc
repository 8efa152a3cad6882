#include "device_plan.hpp"

#include "plan_desc.hpp"

namespace fusco_node {

namespace {

fusco_cuda_path pathOf(const Napi::Value &value) {
  return choiceOf<fusco_cuda_path>(value, "path",
                                   {{"auto", FUSCO_CUDA_PATH_AUTO},
                                    {"direct", FUSCO_CUDA_PATH_DIRECT},
                                    {"forward", FUSCO_CUDA_PATH_FORWARD}});
}

fusco_cuda_capacity capacityOf(const Fields &fields) {
  fusco_cuda_capacity capacity{};
  if (!fields.has("capacity")) return capacity;
  const Fields wanted(fields.at("capacity"), "capacity", fields);
  capacity.tokens = wanted.get<uint32_t>("tokens");
  capacity.topk = wanted.get<uint32_t>("topk");
  capacity.instances = wanted.get<uint32_t>("instances");
  return capacity;
}

Napi::Value reportObject(Napi::Env env, const fusco_cuda_report &report) {
  Napi::Object object = statsObject(env, report.stats);
  object.Set("path", report.path == FUSCO_CUDA_PATH_FORWARD ? "forward" : "direct");
  object.Set("tmaPayloads", report.by_tiles);
  return object;
}

}  // namespace

DevicePlanDesc::DevicePlanDesc(const Fields &fields) {
  desc_.plan = planDescOf(fields, shards_);
  railGroups_ = railGroupsOf(fields, desc_.plan.ranks);
  if (!railGroups_.empty()) desc_.groups = railGroups_.data();
}

DevicePlan::DevicePlan(const Napi::CallbackInfo &info) : Handle(info) {
  const Fields fields(info, 1, Napi::Array::New(info.Env()));
  const DevicePlanDesc desc(fields);
  const fusco_cuda_capacity capacity = capacityOf(fields);
  fusco_cuda_context *context = CudaContext::nativeOf(info[0]);
  fusco_cuda_plan *made = nullptr;
  fusco_error error{};
  check(info.Env(), fusco_cuda_plan_create(context, &capacity, desc.get(), &made, &error), error);
  handle_.reset(made);
  ranks_ = fusco_cuda_ranks(context);
}

template <class C, class Enqueue>
Napi::Value DevicePlan::exchange(const Napi::CallbackInfo &info, Enqueue enqueue) {
  const Call<C> call(Fields(info, 0, Napi::Array::New(info.Env())), ranks_);
  fusco_cuda_report report{};
  fusco_error error{};
  check(info.Env(), enqueue(open(info.Env()).get(), call.get(), &report, &error), error);
  return reportObject(info.Env(), report);
}

Napi::Value DevicePlan::dispatch(const Napi::CallbackInfo &info) {
  const fusco_cuda_path path = pathOf(info[1]);
  return exchange<fusco_dispatch_call>(info, [path](auto *plan, auto *call, auto *report, auto *error) {
    return fusco_cuda_dispatch(plan, path, call, report, error);
  });
}

Napi::Value DevicePlan::combine(const Napi::CallbackInfo &info) {
  return exchange<fusco_combine_call>(info, fusco_cuda_combine);
}

Napi::Value DevicePlan::weightGradient(const Napi::CallbackInfo &info) {
  return exchange<fusco_weight_gradient_call>(info, fusco_cuda_weight_gradient);
}

}  // namespace fusco_node
