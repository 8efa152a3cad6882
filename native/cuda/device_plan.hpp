// A plan on the devices: tables of fixed addresses, filled from pinned memory.
#pragma once

#include <array>

#include "cuda_context.hpp"
#include "forward_tables.hpp"
#include "plan.hpp"

namespace fusco::cuda {

// One device's tables and the host buffers that they are uploaded from.
struct PlanMemory {
  DeviceTables view{};
  uint8_t *memory = nullptr;
  uint32_t *meeting = nullptr;
  std::array<uint8_t *, 2> pinned{};
  std::array<Event, 2> uploaded;  // of each pinned buffer
  Event used;                     // by the last exchange
  cudaStream_t stream = nullptr;  // of uploads
};

class DevicePlan {
 public:
  DevicePlan(std::shared_ptr<CudaContext> context, const fusco_cuda_capacity *capacity,
             const fusco_cuda_plan_desc &desc);
  ~DevicePlan();
  DevicePlan(const DevicePlan &) = delete;
  DevicePlan &operator=(const DevicePlan &) = delete;

  void upload(const fusco_cuda_plan_desc &desc);

  CudaContext &context() const { return *context_; }
  const std::shared_ptr<CudaContext> &contextHandle() const { return context_; }
  const fusco_plan &plan() const { return *plan_; }
  const PlanMemory &tables(size_t group) const { return tables_[group]; }
  uint64_t capacityTokens() const { return capacity_.tokens; }
  bool forwards() const { return forwards_; }
  uint32_t tileTokens() const { return tileTokens_; }
  uint64_t bytes() const { return bytes_; }
  // Counts uploads; a captured exchange is checked again after one.
  uint64_t generation() const { return generation_; }

  // Staging rows of every rank for payload `index`; null where none are needed. Allocates at first use.
  uint8_t *staging(uint32_t rank, uint32_t index, uint64_t rowBytes);

  // Orders exchanges and uploads: leaders wait for the tables; a later upload waits for the leaders.
  void beginUse();
  void endUse();

 private:
  struct Layout;
  struct Staged {
    uint8_t *rows = nullptr;
    uint64_t bytes = 0;
  };

  void allocate(size_t group);
  void checkCapacity(const fusco_plan &plan) const;
  void fill(size_t group, const fusco_plan &plan, const ForwardTables *forward, uint32_t tileTokens,
            const std::vector<std::vector<uint8_t>> &order);

  std::shared_ptr<CudaContext> context_;
  fusco_cuda_capacity capacity_{};
  std::unique_ptr<fusco_plan> plan_;
  std::vector<PlanMemory> tables_;
  std::map<std::pair<uint32_t, uint32_t>, Staged> staging_;
  std::vector<uint32_t> stageRows_;
  uint64_t bytes_ = 0;
  uint64_t generation_ = 0;
  uint32_t tileTokens_ = 0;
  bool forwards_ = false;
};

}  // namespace fusco::cuda

struct fusco_cuda_plan {
  std::shared_ptr<fusco::cuda::DevicePlan> shared;
};
