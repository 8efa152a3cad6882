// A plan in device memory: tables at fixed addresses, filled from pinned memory, so that a captured exchange
// can be replayed with another plan.
#pragma once

#include <array>

#include "cuda_context.hpp"
#include "one_pass_exchange.hpp"
#include "plan.hpp"

namespace fusco::cuda {

// One device's tables and the host buffers that they are uploaded from.
struct PlanMemory {
  DeviceTables tables{};    // addresses in `memory`
  OnePassTables onePass{};  // likewise; none where the context has one device
  uint8_t *memory = nullptr;
  uint32_t *barrier = nullptr;        // DispatchParams::barrier
  std::array<uint8_t *, 2> pinned{};  // used in turn by uploads
  std::array<Event, 2> uploaded;      // of each pinned buffer
  Event used;                         // by the last exchange
  cudaStream_t uploads = nullptr;
};

// All members are called with the context's lock held.
class DevicePlan {
 public:
  // Allocates for the larger of `capacity`, which may be null, and the plan, and uploads the plan. Throws the
  // codes of fusco_cuda_plan_create.
  DevicePlan(std::shared_ptr<CudaContext> context, const fusco_cuda_capacity &capacity,
             const fusco_plan_desc &desc);
  ~DevicePlan();
  DevicePlan(const DevicePlan &) = delete;
  DevicePlan &operator=(const DevicePlan &) = delete;

  // Replaces the plan for exchanges that are enqueued later. The description is not used after the call.
  void upload(const fusco_plan_desc &desc);

  CudaContext &context() const { return *context_; }
  const std::shared_ptr<CudaContext> &contextHandle() const { return context_; }
  const fusco_plan &plan() const { return *plan_; }
  const PlanMemory &onGroup(size_t group) const { return memory_[group]; }
  uint64_t capacityTokens() const { return capacity_.tokens; }
  // Whether rows cross links once per destination rank: between several devices.
  bool hasOnePass() const { return memory_.size() > 1; }
  // Partial sums that arrive at each rank in a one-pass combine.
  const std::vector<uint32_t> &sumLandingRows() const { return sumLandingRows_; }
  uint32_t tileTokens() const { return tileTokens_; }
  // Device memory of the tables.
  uint64_t bytes() const { return bytes_; }
  // Counts uploads; a captured exchange is checked again after one.
  uint64_t generation() const { return generation_; }

  // Orders exchanges and uploads: leaders wait for the tables; a later upload waits for the leaders.
  void beginUse();
  void endUse();

 private:
  struct Layout;

  void allocate(size_t group);
  void install(CheckedPlan checked);
  void checkCapacity(const fusco_plan &plan) const;
  void fill(size_t group, const fusco_plan &plan, uint32_t tileTokens,
            const std::vector<std::vector<uint8_t>> &order);

  std::shared_ptr<CudaContext> context_;
  fusco_cuda_capacity capacity_{};
  std::unique_ptr<fusco_plan> plan_;
  std::vector<PlanMemory> memory_;        // [device groups]
  std::vector<uint32_t> sumLandingRows_;  // [ranks]
  uint64_t bytes_ = 0;
  uint64_t generation_ = 0;
  uint32_t tileTokens_ = 0;
};

}  // namespace fusco::cuda

namespace fusco::cuda {
class BufferedPlan;
}

// A plan that was uploaded, or one that is in plan buffers.
struct fusco_cuda_plan {
  std::shared_ptr<fusco::cuda::DevicePlan> shared;
  std::shared_ptr<fusco::cuda::BufferedPlan> buffered;
};
