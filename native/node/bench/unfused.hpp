// The pipelines that fusion replaces, for the project's benches.
#pragma once

#include "../device_plan.hpp"
#include "../nccl_plan.hpp"
#include "../plan.hpp"
#include "fusco_bench.h"
#include "fusco_cuda_bench.h"
#include "fusco_nccl_bench.h"

namespace fusco_node {

class Unfused : public Handle<Unfused, Owned<fusco_unfused, fusco_unfused_destroy>> {
 public:
  static constexpr char name[] = "Unfused";
  static constexpr char label[] = "the pipeline or its context";

  // (plan, rowBytes)
  explicit Unfused(const Napi::CallbackInfo &info);

  bool isClosed() const { return handle_ == nullptr || plan_->engine().closed(); }

  // (from, to) -> stats
  Napi::Value dispatchSync(const Napi::CallbackInfo &info);
  // (call) -> stats
  Napi::Value combineSync(const Napi::CallbackInfo &info);

 private:
  std::shared_ptr<PlanState> plan_;
};

class CudaUnfused : public Handle<CudaUnfused, Owned<fusco_cuda_unfused, fusco_cuda_unfused_destroy>> {
 public:
  static constexpr char name[] = "CudaUnfused";
  static constexpr char label[] = "the pipeline";

  // (plan, rowBytes)
  explicit CudaUnfused(const Napi::CallbackInfo &info);

  // (from, to): enqueues.
  void dispatch(const Napi::CallbackInfo &info);
  // (call): enqueues.
  void combine(const Napi::CallbackInfo &info);

 private:
  uint32_t ranks_;
};

// The native pipeline, shared with the tasks that use it. The first of them makes it.
struct NcclUnfusedState {
  NcclUnfusedState(std::shared_ptr<NcclPlanState> owner, uint64_t bytes)
      : plan(std::move(owner)), rowBytes(bytes) {}
  fusco_status make(fusco_error *error);

  std::shared_ptr<NcclPlanState> plan;
  uint64_t rowBytes;
  fusco_nccl_unfused *handle = nullptr;
};

class NcclUnfused : public Handle<NcclUnfused, std::shared_ptr<NcclUnfusedState>> {
 public:
  static constexpr char name[] = "NcclUnfused";
  static constexpr char label[] = "the pipeline";

  // (plan, rowBytes)
  explicit NcclUnfused(const Napi::CallbackInfo &info);

  // (number, digest, call) -> Promise<stats>
  Napi::Value dispatch(const Napi::CallbackInfo &info);
  Napi::Value combine(const Napi::CallbackInfo &info);
  // () -> Promise; before the plan is closed.
  Napi::Value close(const Napi::CallbackInfo &info);

 private:
  template <class C, class Run>
  Napi::Value exchange(const Napi::CallbackInfo &info, Run run);
};

}  // namespace fusco_node
