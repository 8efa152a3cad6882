// Plans of the local rank on its device, into a plan buffer of the caller. Facts travel through the memory
// that the ranks of a machine share, so all ranks are on one machine. A call enqueues on the caller's stream.
#pragma once

#include "device_planner.hpp"
#include "nccl_plan.hpp"

namespace fusco::nccl {

// All members are called by the group's thread, with its device current.
class Planner {
 public:
  // Collective: compares options and limits with those of the other ranks. Throws the codes of
  // fusco_nccl_planner_create.
  Planner(std::shared_ptr<Group> group, const fusco_nccl_call &call, const fusco_plan_options &options,
          const fusco_cuda_plan_limits &limits);
  Planner(const Planner &) = delete;
  Planner &operator=(const Planner &) = delete;

  Group &group() const { return *group_; }
  const std::shared_ptr<Group> &groupHandle() const { return group_; }
  const planning::Spec &spec() const { return spec_; }
  const cuda::PlanSizes &sizes() const { return sizes_; }
  // Of a group of one rank, which plans as the cuda backend does; else null.
  const std::shared_ptr<cuda::DevicePlanner> &alone() const { return alone_; }

  // Throws E_BUFFER.
  uint8_t *checkBuffer(const fusco_buffer &buffer) const;
  // Enqueues planning. Collective.
  void plan(const fusco_nccl_call &call, const fusco_ids &ids, uint8_t *buffer);

 private:
  void compareOptions();

  std::shared_ptr<Group> group_;
  planning::Spec spec_;
  cuda::PlanSizes sizes_;
  std::shared_ptr<cuda::DevicePlanner> alone_;
  std::unique_ptr<cuda::PlacedTables> tables_;
};

// A plan in a plan buffer.
class BufferedPlan {
 public:
  // `tokens`: -1 if the host does not know them.
  BufferedPlan(std::shared_ptr<Planner> planner, uint8_t *buffer, int64_t tokens);

  Planner &planner() const { return *planner_; }
  // What exchanges of several ranks run along; null for a group of one rank, which has `alone`.
  const std::shared_ptr<Plan> &plan() const { return plan_; }
  const std::shared_ptr<cuda::BufferedPlan> &alone() const { return alone_; }

  fusco_cuda_plan_view view() const { return reader_.view(); }
  // Waits for planning, for at most the deadline. Throws E_PEER_TIMEOUT; E_ROUTING_ID, E_ROUTING_DUPLICATE
  // for the first bad id.
  cuda::PlanState finished();
  // Waits, and writes the shard unless `shard` has no memory. Returns its bytes. Throws E_BUFFER, and what
  // finished throws.
  uint64_t packShard(const fusco_buffer &shard);

  // Exchanges of a group of one rank.
  void runAlone(const fusco_dispatch_call &call, fusco_nccl_report &report);
  void runAlone(const fusco_combine_call &call, fusco_nccl_report &report);
  void runAlone(const fusco_weight_gradient_call &call, fusco_nccl_report &report);
  void runAlone(const fusco_combine_gradient_call &call, fusco_nccl_report &report);
  fusco_nccl_bytes bytesAlone() const;

  // Sets the sizes that the host does not know to those of the call's buffers.
  template <class Call>
  void fit(const Call &call) {
    if (alone_ != nullptr) {
      alone_->fit(call);
      return;
    }
    cuda::SizesOfCall sizes(plan_->sizesOfCall(), planner_->sizes(), known_, isCapturing());
    fitSizes(sizes, call, planner_->sizes().topk);
  }

 private:
  bool isCapturing() const;

  std::shared_ptr<Planner> planner_;
  std::shared_ptr<Plan> plan_;
  std::shared_ptr<cuda::BufferedPlan> alone_;
  cuda::PlanReader reader_;
  std::vector<cuda::HostKnown> known_;  // [1]
};

}  // namespace fusco::nccl

struct fusco_nccl_planner {
  std::shared_ptr<fusco::nccl::Planner> shared;
};
