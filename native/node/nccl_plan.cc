#include "nccl_plan.hpp"

#include "plan_desc.hpp"

namespace fusco_node {

namespace {

Napi::Value numbersOf(Napi::Env env, const std::vector<uint64_t> &values) {
  Napi::Float64Array array = Napi::Float64Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); i++) array[i] = static_cast<double>(values[i]);
  return array;
}

}  // namespace

Napi::Value NcclReport::object(Napi::Env env, bool detailed) const {
  Napi::Object object = statsObject(env, report.stats);
  setNumbers(object, {{"wireSent", report.wire_sent},
                      {"wireReceived", report.wire_received},
                      {"directBytes", report.direct_written},
                      {"readyNs", report.ready_ns},
                      {"rounds", report.steps},
                      {"slices", report.slices}});
  if (!detailed) return object;
  setNumbers(
      object,
      {{"packNs", report.pack_ns}, {"packHiddenNs", report.pack_hidden_ns}, {"wireNs", report.wire_ns}});
  Napi::Object peers = Napi::Object::New(env);
  peers.Set("sentBytes", numbersOf(env, sent));
  peers.Set("receivedBytes", numbersOf(env, received));
  peers.Set("waitNs", numbersOf(env, wait));
  peers.Set("wireNs", numbersOf(env, wire));
  object.Set("peers", peers);
  return object;
}

NcclPlan::NcclPlan(const Napi::CallbackInfo &info) : Handle(info) {
  const Napi::Array keep = Napi::Array::New(info.Env());
  const Fields fields(info, 1, keep);
  auto state = std::make_shared<NcclPlanState>(NcclGroup::handleOf(info[0]));
  const uint32_t ranks = state->group->ranks;
  desc_.shard = fields.memory("shard");
  keep_ = Napi::Persistent(keep);
  readPlanOptions(fields, desc_);
  desc_.most_entries = fields.get<uint32_t>("mostEntries");
  desc_.most_forwarded = fields.get<uint32_t>("mostForwarded");
  desc_.slice_rows = fields.get<uint32_t>("sliceRows");
  firstInstance_ = fields.elements<uint32_t>("firstInstance", size_t{ranks} + 1);
  desc_.first_instance = firstInstance_.data();
  railGroups_ = railGroupsOf(fields, ranks);
  if (!railGroups_.empty()) desc_.groups = railGroups_.data();
  handle_ = std::move(state);
}

Napi::Value NcclPlan::open(const Napi::CallbackInfo &info) {
  const std::shared_ptr<NcclPlanState> state = Handle::open(info.Env());
  const fusco_nccl_step number = callNumberOf(info);
  const auto work = [state, number, this](fusco_error *error) {
    if (state->group->handle == nullptr) return notOpen(error);
    return fusco_nccl_plan_create(state->group->handle, &number, &desc_, &state->handle, error);
  };
  // The object itself stays referenced: it owns what the description points to.
  Napi::Array keep = Napi::Array::New(info.Env());
  keep.Set(0u, info.This());
  return state->group->worker->submit(work, nullptr, keep);
}

Napi::Value NcclPlan::bytes(const Napi::CallbackInfo &info) {
  const auto rowBytes = valueOf<uint64_t>(info[0], "rowBytes");
  const fusco_nccl_bytes found = fusco_nccl_plan_bytes(Handle::open(info.Env())->handle, rowBytes);
  Napi::Object object = Napi::Object::New(info.Env());
  setNumbers(object, {{"tables", found.tables}, {"dispatch", found.dispatch}, {"combine", found.combine}});
  return object;
}

Napi::Value NcclPlan::close(const Napi::CallbackInfo &info) {
  if (handle_ == nullptr) return resolved(info.Env());
  const std::shared_ptr<NcclPlanState> state = std::move(handle_);
  const auto work = [state](fusco_error *) {
    fusco_nccl_plan_destroy(state->handle);
    state->handle = nullptr;
    return FUSCO_OK;
  };
  return state->group->worker->submit(work, nullptr, Napi::Array::New(info.Env()));
}

}  // namespace fusco_node
