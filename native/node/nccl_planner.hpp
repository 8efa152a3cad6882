// The JavaScript classes NcclPlanner, which plans the local rank on its device, and NcclBufferedPlan, a plan
// in a plan buffer, in a group of one process per rank.
#pragma once

#include "device_planner.hpp"
#include "nccl_plan.hpp"

namespace fusco_node {

// A planner of a group, shared with the tasks that use it. The first task sets `handle`.
struct NcclPlannerState {
  explicit NcclPlannerState(std::shared_ptr<NcclState> owner) : group(std::move(owner)) {}
  NcclPlannerState(const NcclPlannerState &) = delete;
  NcclPlannerState &operator=(const NcclPlannerState &) = delete;

  std::shared_ptr<NcclState> group;
  fusco_nccl_planner *handle = nullptr;
};

class NcclPlanner : public Handle<NcclPlanner, std::shared_ptr<NcclPlannerState>> {
 public:
  static constexpr char name[] = "NcclPlanner";
  static constexpr char label[] = "the planner";

  // (group, options, {maxTokens, maxRecvRows?})
  explicit NcclPlanner(const Napi::CallbackInfo &info);

  Napi::Value bufferBytes(const Napi::CallbackInfo &info);
  // (number, digest) -> Promise; collective.
  Napi::Value open(const Napi::CallbackInfo &info);
  // () -> Promise
  Napi::Value close(const Napi::CallbackInfo &info);

 private:
  std::unique_ptr<PlannerOptions> options_;
  fusco_cuda_plan_limits limits_ = fusco_sized<fusco_cuda_plan_limits>();
  uint64_t bufferBytes_ = 0;
};

class NcclBufferedPlan : public NcclExchanges<NcclBufferedPlan> {
 public:
  static constexpr char name[] = "NcclBufferedPlan";
  static constexpr char label[] = "the plan";

  // (planner, buffer, ids?): plans, or attaches a plan buffer that is filled already.
  explicit NcclBufferedPlan(const Napi::CallbackInfo &info);

  // (number, digest) -> Promise; collective if there are ids.
  Napi::Value open(const Napi::CallbackInfo &info);
  // () -> addresses, as BufferedPlan::describe
  Napi::Value describe(const Napi::CallbackInfo &info);
  // () -> Promise<rows of the receive buffer>
  Napi::Value recvRows(const Napi::CallbackInfo &info);
  // () -> Promise<Uint8Array>
  Napi::Value shard(const Napi::CallbackInfo &info);

 private:
  Napi::Reference<Napi::Array> keep_;
  std::shared_ptr<NcclPlannerState> planner_;
  fusco_buffer buffer_{};
  std::vector<fusco_ids> ids_;  // none: the buffer is filled
};

}  // namespace fusco_node
