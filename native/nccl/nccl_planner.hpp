// Plans of the local rank on its device, into a plan buffer of the caller. A call enqueues on the caller's
// stream.
//
// If all ranks are on one machine, facts travel through the memory that they share, and the host learns
// nothing. Across machines NCCL gathers them: behind the counts of targets, and behind those of nodes. The
// plan buffer is then copied to pinned host memory, asynchronously and once for a plan, because NCCL's counts
// are values of the host. The first exchange waits for the copy, packs the shard from it, and makes the
// tables of plans that are uploaded (Plan), for which sources tell forwarders and neighbors of their rows.
// Nothing is padded: rows travel as along an uploaded plan.
#pragma once

#include "device_planner.hpp"
#include "nccl_plan.hpp"
#include "plan_copy.hpp"

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
  // Enqueues planning. Collective. Across machines it returns the copy that is read back; else null.
  std::unique_ptr<PlanCopy> plan(const fusco_nccl_call &call, const fusco_ids &ids, uint8_t *buffer);

  // Whether the group has several machines.
  bool spansMachines() const { return !group_->neighbors().areAll(); }
  // For groups on several machines: memory for the copy of a plan buffer. Keep it when it is not needed any
  // more: a later plan uses it again.
  std::unique_ptr<PlanCopy> takeCopy();
  void keep(std::unique_ptr<PlanCopy> copy);

 private:
  void compareOptions();
  void planWithPeers(const fusco_nccl_call &call, cuda::PlanParams &params, cudaStream_t stream);
  void planAcrossMachines(cuda::PlanParams &params, cudaStream_t stream);
  // Calls `issue`, which enqueues on the wire's stream, between what is on `stream` and what follows on it.
  void onWire(cudaStream_t stream, const std::function<void()> &issue);

  std::shared_ptr<Group> group_;
  planning::Spec spec_;
  cuda::PlanSizes sizes_;
  std::shared_ptr<cuda::DevicePlanner> alone_;
  cuda::Event beforeWire_, behindWire_;
  // Freed behind tables_, whose destructor waits for the device.
  std::vector<std::unique_ptr<PlanCopy>> copies_;
  std::unique_ptr<cuda::PlacedTables> tables_;
};

// A plan in a plan buffer.
class BufferedPlan {
 public:
  // `tokens`: -1 if the host does not know them. `copy`: that of Planner::plan, or null.
  BufferedPlan(std::shared_ptr<Planner> planner, uint8_t *buffer, int64_t tokens,
               std::unique_ptr<PlanCopy> copy);
  ~BufferedPlan();

  Planner &planner() const { return *planner_; }
  // What exchanges of several ranks run along; null for a group of one rank, which has `alone`, and across
  // machines before the first exchange.
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
  // Memory of exchanges with rows of `rowBytes`.
  fusco_nccl_bytes bytes(uint64_t rowBytes) const;

  // Across machines, before an exchange: makes plan() if this is the first one, for which it waits for
  // planning. Collective then. Throws E_BACKEND in a capture; E_PEER_TIMEOUT; E_PEER_MISMATCH.
  void prepare(const fusco_nccl_call &call, fusco_nccl_report &report);

  // Sets the sizes that the host does not know to those of the call's buffers.
  template <class Call>
  void fit(const Call &call) {
    if (alone_ != nullptr) {
      alone_->fit(call);
      return;
    }
    // What is read back says the sizes.
    if (planner_->spansMachines()) return;
    cuda::SizesOfCall sizes(plan_->sizesOfCall(), planner_->sizes(), known_, isCapturing());
    fitSizes(sizes, call, planner_->sizes().topk);
  }

 private:
  bool isCapturing() const;
  std::shared_ptr<Plan> planFrom(const fusco_nccl_call &call, const cuda::PlanBuffer &tables) const;

  std::shared_ptr<Planner> planner_;
  uint8_t *buffer_;
  std::unique_ptr<PlanCopy> copy_;  // across machines, until plan_ is made
  std::shared_ptr<Plan> plan_;
  std::shared_ptr<cuda::BufferedPlan> alone_;
  cuda::PlanReader reader_;
  std::vector<cuda::HostKnown> known_;  // [1]
};

}  // namespace fusco::nccl

struct fusco_nccl_planner {
  std::shared_ptr<fusco::nccl::Planner> shared;
};
