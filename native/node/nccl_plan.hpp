// The JavaScript class NcclPlan: the local rank's part of a plan, in a group of one process per rank.
#pragma once

#include "calls.hpp"
#include "nccl_group.hpp"

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
  fusco_nccl_peers peers() { return {sent.data(), received.data(), wait.data(), wire.data()}; }
  Napi::Value object(Napi::Env env, bool detailed) const;

  fusco_nccl_report report{};
  std::vector<uint64_t> sent, received, wait, wire;
};

class NcclPlan : public Handle<NcclPlan, std::shared_ptr<NcclPlanState>> {
 public:
  static constexpr char name[] = "NcclPlan";
  static constexpr char label[] = "the plan";

  // (group, {shard, ranksPerNode, strategy, partial, groups?, firstInstance, sliceRows, mostEntries,
  // mostForwarded})
  explicit NcclPlan(const Napi::CallbackInfo &info);

  // (number, digest) -> Promise; collective.
  Napi::Value open(const Napi::CallbackInfo &info);
  // (rowBytes) -> {tables, dispatch, combine}
  Napi::Value bytes(const Napi::CallbackInfo &info);
  // (number, digest, call, detailed) -> Promise<report>
  template <auto function>
  Napi::Value exchange(const Napi::CallbackInfo &info) {
    return exchange(info, function);
  }
  // () -> Promise
  Napi::Value close(const Napi::CallbackInfo &info);

 private:
  template <class C>
  using ExchangeFunction = fusco_status(fusco_nccl_plan *, const fusco_nccl_step *, const C *,
                                        fusco_nccl_report *, const fusco_nccl_peers *, fusco_error *);

  template <class C>
  Napi::Value exchange(const Napi::CallbackInfo &info, ExchangeFunction<C> *function) {
    const std::shared_ptr<NcclPlanState> state = Handle::open(info.Env());
    const fusco_nccl_step number = callNumberOf(info);
    const bool detailed = booleanOf(info[3], "detailed");
    const Napi::Array keep = Napi::Array::New(info.Env());
    const auto call = std::make_shared<Call<C>>(Fields(info, 2, keep), 1);
    const auto report = std::make_shared<NcclReport>(detailed ? state->group->ranks : 0);
    const auto work = [=](fusco_error *error) {
      if (!state->isOpen()) return notOpen(error);
      const fusco_nccl_peers peers = report->peers();
      return function(state->handle, &number, call->get(), &report->report, detailed ? &peers : nullptr,
                      error);
    };
    const auto result = [=](Napi::Env env) { return report->object(env, detailed); };
    return state->group->worker->submit(work, result, keep);
  }

  Napi::Reference<Napi::Array> keep_;
  std::vector<uint16_t> railGroups_;
  std::vector<uint32_t> firstInstance_;
  fusco_nccl_plan_desc desc_{};
};

}  // namespace fusco_node
