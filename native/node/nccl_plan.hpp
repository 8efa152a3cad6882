// The JavaScript class NcclPlan: the local rank's part of a plan, in a group of one process per rank.
#pragma once

#include "calls.hpp"
#include "nccl_group.hpp"
#include "plan_desc.hpp"

namespace fusco_node {

// A plan of a group, shared with the tasks that use it. The first task sets `handle`.
struct NcclPlanState {
  explicit NcclPlanState(std::shared_ptr<NcclState> owner) : group(std::move(owner)) {}
  NcclPlanState(const NcclPlanState &) = delete;
  NcclPlanState &operator=(const NcclPlanState &) = delete;

  bool isOpen() const { return group->handle != nullptr && handle != nullptr; }

  std::shared_ptr<NcclState> group;
  fusco_nccl_plan *handle = nullptr;
};

// What an exchange reports, with room for every peer if that was asked for.
struct NcclReport {
  explicit NcclReport(uint32_t ranks) : sent(ranks), received(ranks), wait(ranks), wire(ranks) {}
  fusco_nccl_peers peers() {
    fusco_nccl_peers arrays = fusco_sized<fusco_nccl_peers>();
    arrays.sent_bytes = sent.data();
    arrays.received_bytes = received.data();
    arrays.wait_ns = wait.data();
    arrays.nccl_ns = wire.data();
    return arrays;
  }

  Napi::Value object(Napi::Env env, bool detailed) const {
    Napi::Object object = statsObject(env, report.stats);
    setNumbers(object, {{"wireSent", report.nccl_sent},
                        {"wireReceived", report.nccl_received},
                        {"directBytes", report.direct_bytes},
                        {"readyNs", report.ready_ns},
                        {"rounds", report.rounds},
                        {"slices", report.sends},
                        {"readbackBytes", report.readback_bytes},
                        {"readbackNs", report.readback_ns}});
    object.Set("enqueued", report.enqueued != 0);
    if (!detailed) return object;
    setNumbers(
        object,
        {{"packNs", report.pack_ns}, {"packHiddenNs", report.pack_hidden_ns}, {"wireNs", report.nccl_ns}});
    Napi::Object peers = Napi::Object::New(env);
    const auto set = [&](const char *name, const std::vector<uint64_t> &values) {
      Napi::Float64Array array = Napi::Float64Array::New(env, values.size());
      for (size_t i = 0; i < values.size(); i++) array[i] = static_cast<double>(values[i]);
      peers.Set(name, array);
    };
    set("sentBytes", sent);
    set("receivedBytes", received);
    set("waitNs", wait);
    set("wireNs", wire);
    object.Set("peers", peers);
    return object;
  }

  fusco_nccl_report report = fusco_sized<fusco_nccl_report>();
  std::vector<uint64_t> sent, received, wait, wire;
};

// What plans have in common that were uploaded or made on the device: `Class` makes the handle.
template <class Class>
class NcclExchanges : public Handle<Class, std::shared_ptr<NcclPlanState>> {
 public:
  // (rowBytes) -> {tables, dispatch, combine, enqueues}
  Napi::Value bytes(const Napi::CallbackInfo &info) {
    const auto rowBytes = valueOf<uint64_t>(info[0], "rowBytes");
    fusco_nccl_bytes found = fusco_sized<fusco_nccl_bytes>();
    run(info.Env(), fusco_nccl_plan_bytes, this->Handle_::open(info.Env())->handle, rowBytes, &found);
    Napi::Object object = Napi::Object::New(info.Env());
    setNumbers(object, {{"tables", found.tables}, {"dispatch", found.dispatch}, {"combine", found.combine}});
    object.Set("enqueues", found.enqueues != 0);
    return object;
  }
  // (number, digest, call, detailed) -> Promise<report>
  template <auto function>
  Napi::Value exchange(const Napi::CallbackInfo &info) {
    return exchange(info, function);
  }
  // () -> Promise
  Napi::Value close(const Napi::CallbackInfo &info) {
    auto &held = this->handle_;
    Worker *worker = held == nullptr ? nullptr : held->group->worker.get();
    return closeLater(info, held, worker, [](NcclPlanState &state) {
      fusco_nccl_plan_destroy(std::exchange(state.handle, nullptr));
    });
  }

 protected:
  using Handle_ = Handle<Class, std::shared_ptr<NcclPlanState>>;
  using Handle_::Handle_;

 private:
  template <class C>
  using ExchangeFunction = fusco_status(fusco_nccl_plan *, const fusco_nccl_call *, const C *,
                                        fusco_nccl_report *, const fusco_nccl_peers *, fusco_error *);

  template <class C>
  Napi::Value exchange(const Napi::CallbackInfo &info, ExchangeFunction<C> *function) {
    const std::shared_ptr<NcclPlanState> state = this->Handle_::open(info.Env());
    const fusco_nccl_call number = callNumberOf(info);
    const bool detailed = booleanOf(info[3], "detailed");
    const Napi::Array keep = Napi::Array::New(info.Env());
    const auto call = std::make_shared<Call<C>>(Fields(info, 2, keep), 1);
    const auto report = std::make_shared<NcclReport>(detailed ? state->group->ranks : 0);
    const auto work = [=](fusco_error *error) {
      if (!state->isOpen()) return notOpen(error);
      const fusco_nccl_peers peers = report->peers();
      const fusco_nccl_peers *asked = detailed ? &peers : nullptr;
      return function(state->handle, &number, call->get(), &report->report, asked, error);
    };
    const auto result = [=](Napi::Env env) { return report->object(env, detailed); };
    return state->group->worker->submit(work, result, keep);
  }
};

class NcclPlan : public NcclExchanges<NcclPlan> {
 public:
  static constexpr char name[] = "NcclPlan";
  static constexpr char label[] = "the plan";

  // (group, {shard, ranksPerNode, strategy, partial, sum, groups?, firstInstance, sliceRows, mostEntries,
  // mostForwarded, rowBytes})
  explicit NcclPlan(const Napi::CallbackInfo &info) : NcclExchanges(info) {
    const Napi::Array keep = Napi::Array::New(info.Env());
    const Fields fields(info, 1, keep);
    auto state = std::make_shared<NcclPlanState>(NcclGroup::handleOf(info[0]));
    const uint32_t ranks = state->group->ranks;
    desc_.shard = fields.memory("shard");
    keep_ = Napi::Persistent(keep);
    readPlanOptions(fields, desc_);
    desc_.max_entries = fields.get<uint32_t>("mostEntries");
    desc_.max_forwarded = fields.get<uint32_t>("mostForwarded");
    desc_.slice_rows = fields.get<uint32_t>("sliceRows");
    desc_.row_bytes = fields.integer("rowBytes", uint64_t{1} << 40);
    firstInstance_ = fields.elements<uint32_t>("firstInstance", size_t{ranks} + 1);
    desc_.first_instance = firstInstance_.data();
    railGroups_ = railGroupsOf(fields, ranks);
    if (!railGroups_.empty()) desc_.rail_groups = railGroups_.data();
    handle_ = std::move(state);
  }

  // (number, digest) -> Promise; collective.
  Napi::Value open(const Napi::CallbackInfo &info) {
    const std::shared_ptr<NcclPlanState> state = Handle::open(info.Env());
    const fusco_nccl_call number = callNumberOf(info);
    const auto work = [state, number, this](fusco_error *error) {
      if (state->group->handle == nullptr) return notOpen(error);
      return fusco_nccl_plan_create(state->group->handle, &number, &desc_, &state->handle, error);
    };
    // The object itself stays referenced: it owns what the description points to.
    Napi::Array keep = Napi::Array::New(info.Env());
    keep.Set(0u, info.This());
    return state->group->worker->submit(work, nullptr, keep);
  }

 private:
  Napi::Reference<Napi::Array> keep_;
  std::vector<uint16_t> railGroups_;
  std::vector<uint32_t> firstInstance_;
  fusco_nccl_plan_desc desc_ = fusco_sized<fusco_nccl_plan_desc>();
};

}  // namespace fusco_node
