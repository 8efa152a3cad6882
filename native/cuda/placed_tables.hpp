// Tables of the placement in the memory of one device, and the parameters of planning there.
#pragma once

#include <vector>

#include "cuda_context.hpp"
#include "plan_launch.hpp"
#include "spec.hpp"

namespace fusco::cuda {

class PlacedTables {
 public:
  // For planning `ranks` on the device of rank `contextRank` of the context. Waits for the upload.
  PlacedTables(CudaContext &context, uint32_t contextRank, const planning::Spec &spec, const PlanSizes &sizes,
               const std::vector<uint32_t> &ranks);
  ~PlacedTables();
  PlacedTables(const PlacedTables &) = delete;
  PlacedTables &operator=(const PlacedTables &) = delete;

  // Without ids, plan buffers and where other ranks are.
  const PlanParams &params() const { return params_; }

 private:
  uint32_t device_;
  uint8_t *memory_ = nullptr;
  PlanParams params_{};
};

// Throws E_LIMIT for more tokens than the planner takes, and what planning::checkIds throws. `reach` throws
// E_BUFFER for ids that the device does not reach.
void checkIds(const fusco_ids &ids, uint32_t rank, const PlanSizes &sizes,
              const std::function<void(const void *)> &reach);
// Throws E_BUFFER for a plan buffer of rank `rank` that is too small or misaligned.
void checkPlanBuffer(const fusco_buffer &buffer, uint32_t rank, const PlanSizes &sizes);

}  // namespace fusco::cuda
