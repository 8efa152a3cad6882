// Plans on the devices of one process into plan buffers of the caller, and exchanges along them.
#pragma once

#include <vector>

#include "buffered_sizes.hpp"
#include "device_plan.hpp"
#include "joined_tables.hpp"
#include "placed_tables.hpp"
#include "plan_reader.hpp"

namespace fusco::cuda {

// What exchanges read in the plan buffer of a rank that is alone on its device.
PlanMemory exchangeTables(const PlanSizes &sizes, uint8_t *planBuffer);

// All members are called with the context's lock held.
class DevicePlanner {
 public:
  // Both structs have the form of this version. Throws the codes of fusco_cuda_planner_create.
  DevicePlanner(std::shared_ptr<CudaContext> context, const fusco_plan_options &options,
                const fusco_cuda_plan_limits &limits);
  DevicePlanner(const DevicePlanner &) = delete;
  DevicePlanner &operator=(const DevicePlanner &) = delete;

  CudaContext &context() const { return *context_; }
  const std::shared_ptr<CudaContext> &contextHandle() const { return context_; }
  const planning::Spec &spec() const { return spec_; }
  const PlanSizes &sizes() const { return sizes_; }
  // Partial sums that can arrive at each rank in a one-pass combine.
  const std::vector<uint32_t> &sumLandingRows() const { return sumLandingRows_; }

  // Enqueues planning. `ids` and `buffers` [ranks]. Throws the codes of fusco_cuda_plan_on_device.
  void plan(const std::vector<fusco_ids> &ids, const std::vector<uint8_t *> &buffers);
  // [ranks]. Throws E_BUFFER for a plan buffer that is too small or misaligned, or out of a device's reach.
  std::vector<uint8_t *> checkBuffers(const fusco_buffer *buffers) const;

  // What exchanges along plan buffers read on a device. Several ranks of a device have their tables joined
  // before each exchange, in memory of the planner.
  PlanMemory memoryOf(size_t group, const std::vector<uint8_t *> &buffers) const;
  void join(const std::vector<uint8_t *> &buffers);
  // Order the exchanges of different streams.
  void beginUse();
  void endUse();

 private:
  // Of a device with several ranks: the memory that their tables are joined in.
  struct Joined {
    Joined(CudaContext &context, const DeviceGroup &group, const PlanSizes &sizes);
    ~Joined();
    Joined(const Joined &) = delete;
    Joined &operator=(const Joined &) = delete;

    JoinedTables tables;
    uint32_t device;
    uint8_t *memory;
    Event used;  // by the last exchange
  };

  void makeParams(size_t group);
  // `parts`: of planning, on all devices.
  void enqueue(uint32_t parts);

  std::shared_ptr<CudaContext> context_;
  planning::Spec spec_;
  PlanSizes sizes_;
  std::vector<std::unique_ptr<PlacedTables>> tables_;  // by device group
  std::vector<PlanParams> params_;                     // likewise
  std::vector<std::unique_ptr<Joined>> joined_;        // likewise; null for a device with one rank
  std::vector<uint32_t> sumLandingRows_;
};

// A plan in plan buffers.
class BufferedPlan : public DevicePlan {
 public:
  // `tokens` [ranks], or empty if the host does not know them.
  BufferedPlan(std::shared_ptr<DevicePlanner> planner, std::vector<uint8_t *> buffers,
               const std::vector<uint32_t> &tokens);

  const std::shared_ptr<DevicePlanner> &planner() const { return planner_; }
  // Throws E_OPTION for a rank outside the group.
  fusco_cuda_plan_view view(uint32_t rank) const { return reader(rank).view(); }
  // Waits for planning. Throws E_ROUTING_ID, E_ROUTING_DUPLICATE for the first bad id, E_BACKEND.
  PlanState finished(uint32_t rank);
  // Waits, and writes the rank's shard unless `shard` has no memory. Returns its bytes. Throws E_BUFFER, and
  // what finished throws.
  uint64_t packShard(uint32_t rank, const fusco_buffer &shard);

  bool hasFixedSizes() const override { return true; }
  uint64_t allTokens() const override { return capacityTokens(); }
  uint64_t capacityTokens() const override;
  uint32_t maxTokens() const override { return planner_->sizes().maxTokens; }
  const std::vector<uint32_t> &sumLandingRows() const override { return planner_->sumLandingRows(); }
  uint32_t tileTokens() const override { return 0; }
  uint64_t bytes() const override;
  void beginUse() override { planner_->beginUse(); }
  void endUse() override { planner_->endUse(); }
  void prepare() override { planner_->join(buffers_); }
  void fit(const fusco_dispatch_call &call) override;
  void fit(const fusco_combine_call &call) override;
  void fit(const fusco_weight_gradient_call &call) override;
  void fit(const fusco_combine_gradient_call &call) override;

 private:
  PlanReader reader(uint32_t rank) const;
  template <class Call>
  void fitTo(const Call &call);

  std::shared_ptr<DevicePlanner> planner_;
  std::vector<uint8_t *> buffers_;  // [ranks]
  std::vector<HostKnown> known_;    // [ranks]
};

}  // namespace fusco::cuda

struct fusco_cuda_planner {
  std::shared_ptr<fusco::cuda::DevicePlanner> shared;
};
