#include "nccl_planner.hpp"

#include <cstring>

namespace fusco_node {

NcclPlanner::NcclPlanner(const Napi::CallbackInfo &info) : Handle(info) {
  const Napi::Array keep = Napi::Array::New(info.Env());
  options_ = std::make_unique<PlannerOptions>(Fields(info, 1, keep));
  limits_ = limitsOf(Fields(info, 2, keep));
  const fusco_plan_options *given = options_->get();
  const fusco_cuda_plan_limits *limits = &limits_;
  run(info.Env(), fusco_cuda_plan_buffer_bytes, given, limits, &bufferBytes_);
  handle_ = std::make_shared<NcclPlannerState>(NcclGroup::handleOf(info[0]));
}

Napi::Value NcclPlanner::bufferBytes(const Napi::CallbackInfo &info) {
  return valueFor(info.Env(), bufferBytes_);
}

Napi::Value NcclPlanner::open(const Napi::CallbackInfo &info) {
  const std::shared_ptr<NcclPlannerState> state = Handle::open(info.Env());
  const fusco_nccl_call number = callNumberOf(info);
  const auto work = [state, number, this](fusco_error *error) {
    if (state->group->handle == nullptr) return notOpen(error);
    return fusco_nccl_planner_create(state->group->handle, &number, options_->get(), &limits_, &state->handle,
                                     error);
  };
  // The object itself stays referenced: it owns the options.
  Napi::Array keep = Napi::Array::New(info.Env());
  keep.Set(0u, info.This());
  return state->group->worker->submit(work, nullptr, keep);
}

Napi::Value NcclPlanner::close(const Napi::CallbackInfo &info) {
  Worker *worker = handle_ == nullptr ? nullptr : handle_->group->worker.get();
  return closeLater(info, handle_, worker, [](NcclPlannerState &state) {
    fusco_nccl_planner_destroy(std::exchange(state.handle, nullptr));
  });
}

NcclBufferedPlan::NcclBufferedPlan(const Napi::CallbackInfo &info) : NcclExchanges(info) {
  const Napi::Env env = info.Env();
  Napi::Array keep = Napi::Array::New(env);
  planner_ = NcclPlanner::handleOf(info[0]);
  buffer_ = memoryOf(info[1], "the plan buffer", 0, keep);
  if (!info[2].IsUndefined()) {
    const Napi::Array list = Napi::Array::New(env);
    list.Set(0u, info[2]);
    ids_ = idsOf(list, 1, keep);
  }
  keep_ = Napi::Persistent(keep);
  handle_ = std::make_shared<NcclPlanState>(planner_->group);
}

Napi::Value NcclBufferedPlan::open(const Napi::CallbackInfo &info) {
  const std::shared_ptr<NcclPlanState> state = Handle_::open(info.Env());
  const fusco_nccl_call number = callNumberOf(info);
  const auto work = [state, number, this](fusco_error *error) {
    if (state->group->handle == nullptr || planner_->handle == nullptr) return notOpen(error);
    if (ids_.empty()) return fusco_nccl_plan_attach(planner_->handle, &buffer_, &state->handle, error);
    fusco_cuda_plan_call call = fusco_sized<fusco_cuda_plan_call>();
    call.ids = ids_.data();
    call.buffers = &buffer_;
    return fusco_nccl_plan_on_device(planner_->handle, &number, &call, &state->handle, error);
  };
  Napi::Array keep = Napi::Array::New(info.Env());
  keep.Set(0u, info.This());
  return state->group->worker->submit(work, nullptr, keep);
}

Napi::Value NcclBufferedPlan::describe(const Napi::CallbackInfo &info) {
  fusco_cuda_plan_view view = fusco_sized<fusco_cuda_plan_view>();
  run(info.Env(), fusco_nccl_plan_describe, Handle_::open(info.Env())->handle, &view);
  return viewFor(info.Env(), view);
}

Napi::Value NcclBufferedPlan::recvRows(const Napi::CallbackInfo &info) {
  const std::shared_ptr<NcclPlanState> state = Handle_::open(info.Env());
  const auto rows = std::make_shared<uint32_t>(0);
  const auto work = [=](fusco_error *error) {
    if (!state->isOpen()) return notOpen(error);
    return fusco_nccl_plan_status(state->handle, rows.get(), error);
  };
  const auto result = [=](Napi::Env env) { return valueFor(env, *rows); };
  return state->group->worker->submit(work, result, Napi::Array::New(info.Env()));
}

Napi::Value NcclBufferedPlan::shard(const Napi::CallbackInfo &info) {
  const std::shared_ptr<NcclPlanState> state = Handle_::open(info.Env());
  // Words: shards are aligned.
  const auto words = std::make_shared<std::vector<uint32_t>>();
  const auto bytes = std::make_shared<uint64_t>(0);
  const auto work = [=](fusco_error *error) {
    if (!state->isOpen()) return notOpen(error);
    fusco_buffer shard{};
    const fusco_status status = fusco_nccl_plan_shard(state->handle, &shard, error);
    if (status != FUSCO_OK) return status;
    words->resize((shard.bytes + sizeof(uint32_t) - 1) / sizeof(uint32_t));
    shard.data = words->data();
    *bytes = shard.bytes;
    return fusco_nccl_plan_shard(state->handle, &shard, error);
  };
  const auto result = [=](Napi::Env env) { return bytesFor(env, words->data(), *bytes); };
  return state->group->worker->submit(work, result, Napi::Array::New(info.Env()));
}

}  // namespace fusco_node
