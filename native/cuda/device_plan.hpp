// A plan in device memory: tables at fixed addresses, so that a captured exchange can be replayed with
// another plan. They are filled from pinned memory, or by planning on the device (buffered_plan.hpp).
#pragma once

#include <array>

#include "cuda_context.hpp"
#include "one_pass_exchange.hpp"
#include "plan.hpp"

namespace fusco::cuda {

// What exchanges read on one device.
struct PlanMemory {
  DeviceTables tables{};
  OnePassTables onePass{};      // none where the context has one device
  uint32_t *barrier = nullptr;  // DispatchParams::barrier
};

// What exchanges need to know of a plan. All members are called with the context's lock held.
class DevicePlan {
 public:
  virtual ~DevicePlan() = default;
  DevicePlan(const DevicePlan &) = delete;
  DevicePlan &operator=(const DevicePlan &) = delete;

  CudaContext &context() const { return *context_; }
  const std::shared_ptr<CudaContext> &contextHandle() const { return context_; }
  // Sizes and, of an uploaded plan, places.
  const fusco_plan &plan() const { return *plan_; }
  const PlanMemory &onGroup(size_t group) const { return memory_[group]; }
  // Whether rows cross links once per destination rank: between several devices.
  bool hasOnePass() const { return memory_.size() > 1; }
  // Counts uploads; a captured exchange is checked again after one.
  uint64_t generation() const { return generation_; }

  // Whether the sizes below, and the memory of exchanges, are those of every plan that may be there at a
  // replay.
  virtual bool hasFixedSizes() const = 0;
  // Tokens of all ranks: of this plan, and the most that there may be. Most tokens of a rank.
  virtual uint64_t allTokens() const = 0;
  virtual uint64_t capacityTokens() const = 0;
  virtual uint32_t maxTokens() const = 0;
  // Partial sums that arrive at each rank in a one-pass combine.
  virtual const std::vector<uint32_t> &sumLandingRows() const = 0;
  // Of the order of stores; 0: none.
  virtual uint32_t tileTokens() const = 0;
  // Device memory of the tables.
  virtual uint64_t bytes() const = 0;

  // Orders exchanges and what fills the tables, outside of captures: leaders wait for the tables; a later
  // filling waits for the leaders.
  virtual void beginUse() = 0;
  virtual void endUse() = 0;
  // Enqueues what must come before every exchange, on the leaders.
  virtual void prepare() = 0;
  // Sets the sizes that the host does not know to those of the call's buffers.
  virtual void fit(const fusco_dispatch_call &call) = 0;
  virtual void fit(const fusco_combine_call &call) = 0;
  virtual void fit(const fusco_weight_gradient_call &call) = 0;
  virtual void fit(const fusco_combine_gradient_call &call) = 0;

 protected:
  explicit DevicePlan(std::shared_ptr<CudaContext> context)
      : context_(std::move(context)), memory_(context_->groups().size()) {}

  std::shared_ptr<CudaContext> context_;
  std::unique_ptr<fusco_plan> plan_;
  std::vector<PlanMemory> memory_;  // [device groups]
  uint64_t generation_ = 0;
};

// One device's tables and the host buffers that they are uploaded from.
struct UploadedMemory {
  uint8_t *memory = nullptr;
  std::array<uint8_t *, 2> pinned{};  // used in turn by uploads
  std::array<Event, 2> uploaded;      // of each pinned buffer
  Event used;                         // by the last exchange
  cudaStream_t uploads = nullptr;
};

class UploadedPlan : public DevicePlan {
 public:
  // Allocates for the larger of `capacity`, which may be null, and the plan, and uploads the plan. Throws the
  // codes of fusco_cuda_plan_create.
  UploadedPlan(std::shared_ptr<CudaContext> context, const fusco_cuda_capacity &capacity,
               const fusco_plan_desc &desc);
  ~UploadedPlan() override;

  // Replaces the plan for exchanges that are enqueued later. The description is not used after the call.
  void upload(const fusco_plan_desc &desc);

  bool hasFixedSizes() const override { return false; }
  uint64_t allTokens() const override { return plan_->tokens; }
  uint64_t capacityTokens() const override { return capacity_.tokens; }
  uint32_t maxTokens() const override;
  const std::vector<uint32_t> &sumLandingRows() const override { return sumLandingRows_; }
  uint32_t tileTokens() const override { return tileTokens_; }
  uint64_t bytes() const override { return bytes_; }
  void beginUse() override;
  void endUse() override;
  void prepare() override {}
  void fit(const fusco_dispatch_call &) override {}
  void fit(const fusco_combine_call &) override {}
  void fit(const fusco_weight_gradient_call &) override {}
  void fit(const fusco_combine_gradient_call &) override {}

 private:
  struct Layout;

  void allocate(size_t group);
  void install(CheckedPlan checked);
  void checkCapacity(const fusco_plan &plan) const;
  void fill(size_t group, const fusco_plan &plan, uint32_t tileTokens,
            const std::vector<std::vector<uint8_t>> &order);

  fusco_cuda_capacity capacity_{};
  std::vector<UploadedMemory> uploads_;   // [device groups]
  std::vector<uint32_t> sumLandingRows_;  // [ranks]
  uint64_t bytes_ = 0;
  uint32_t tileTokens_ = 0;
};

}  // namespace fusco::cuda

namespace fusco::cuda {
class BufferedPlan;
}

// A plan that was uploaded, or one that is in plan buffers: one of the last two is `shared`, the other null.
struct fusco_cuda_plan {
  std::shared_ptr<fusco::cuda::DevicePlan> shared;
  fusco::cuda::UploadedPlan *uploaded;
  fusco::cuda::BufferedPlan *buffered;
};
