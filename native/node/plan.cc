#include "plan.hpp"

#include "plan_desc.hpp"

namespace fusco_node {

Plan::Plan(const Napi::CallbackInfo &info) : Handle(info) {
  const Fields fields(info, 1, Napi::Array::New(info.Env()));
  std::vector<fusco_buffer> shards;
  const fusco_plan_desc desc = planDescOf(fields, shards);
  const std::shared_ptr<Engine> engine = Context::handleOf(info[0]);
  handle_ = std::make_shared<PlanState>(info.Env(), engine, desc);
  engine->adopt(handle_);
  // The collector cannot see native memory; without this it would be in no hurry to collect plans.
  bytes_ = static_cast<int64_t>(fusco_plan_bytes(handle_->handle()));
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), bytes_);
}

void Plan::Finalize(Napi::Env env) {
  if (bytes_ > 0) Napi::MemoryManagement::AdjustExternalMemory(env, -bytes_);
}

// Tasks in flight hold the state; the last of them frees it.
void Plan::close(const Napi::CallbackInfo &info) {
  if (handle_ == nullptr) return;
  handle_ = nullptr;
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -bytes_);
  bytes_ = 0;
}

}  // namespace fusco_node
