// Plans on the device into plan buffers of the caller, for the ranks of one process.
#pragma once

#include <vector>

#include "cuda_context.hpp"
#include "plan_launch.hpp"
#include "spec.hpp"

namespace fusco::cuda {

// The sizes that fix the layout of plan buffers. Throws E_OPTION for AUTO, E_LIMIT where the counts of a plan
// could pass a limit of the format.
PlanSizes planSizes(const planning::Spec &spec, const fusco_cuda_plan_limits &limits);
// Bytes of a plan buffer.
uint64_t planBufferBytes(const PlanSizes &sizes);

// All members are called with the context's lock held.
class DevicePlanner {
 public:
  // Both structs have the form of this version. Throws the codes of fusco_cuda_planner_create.
  DevicePlanner(std::shared_ptr<CudaContext> context, const fusco_plan_options &options,
                const fusco_cuda_plan_limits &limits);
  ~DevicePlanner();
  DevicePlanner(const DevicePlanner &) = delete;
  DevicePlanner &operator=(const DevicePlanner &) = delete;

  CudaContext &context() const { return *context_; }
  const std::shared_ptr<CudaContext> &contextHandle() const { return context_; }
  const planning::Spec &spec() const { return spec_; }
  const PlanSizes &sizes() const { return sizes_; }

  // Enqueues planning. `ids` and `buffers` [ranks]. Throws the codes of fusco_cuda_plan_on_device.
  void plan(const std::vector<fusco_ids> &ids, const std::vector<uint8_t *> &buffers);
  // [ranks]. Throws E_BUFFER for a plan buffer that is too small or misaligned, or out of a device's reach.
  std::vector<uint8_t *> checkBuffers(const fusco_buffer *buffers) const;

 private:
  // Of one device: tables of the placement, in one allocation.
  struct DeviceTables {
    uint8_t *memory = nullptr;
    PlanParams params{};  // without ids and buffers
  };

  void upload(DeviceTables &tables, const DeviceGroup &group);
  void checkIds(const fusco_ids &ids, uint32_t rank) const;

  std::shared_ptr<CudaContext> context_;
  planning::Spec spec_;
  PlanSizes sizes_;
  std::vector<DeviceTables> tables_;  // by device group
};

// A plan in plan buffers.
class BufferedPlan {
 public:
  BufferedPlan(std::shared_ptr<DevicePlanner> planner, std::vector<uint8_t *> buffers)
      : planner_(std::move(planner)), buffers_(std::move(buffers)) {}

  const std::shared_ptr<CudaContext> &contextHandle() const { return planner_->contextHandle(); }

  // Throws E_OPTION for a rank outside the group.
  fusco_cuda_plan_view view(uint32_t rank) const;
  // Waits for planning. Throws E_ROUTING_ID, E_ROUTING_DUPLICATE for the first bad id, E_BACKEND.
  PlanState finished(uint32_t rank) const;
  // Waits, and writes the rank's shard unless `shard` has no memory. Returns its bytes. Throws E_BUFFER, and
  // what finished throws.
  uint64_t packShard(uint32_t rank, const fusco_buffer &shard) const;

 private:
  PlanBuffer addresses(uint32_t rank) const;
  void download(void *to, const void *from, uint64_t bytes) const;

  std::shared_ptr<DevicePlanner> planner_;
  std::vector<uint8_t *> buffers_;  // [ranks]
};

}  // namespace fusco::cuda

struct fusco_cuda_planner {
  std::shared_ptr<fusco::cuda::DevicePlanner> shared;
};
