// The JavaScript classes DevicePlanner, which plans on the GPUs of a context, and BufferedPlan, a plan in
// plan buffers.
#pragma once

#include "cuda_context.hpp"
#include "planner.hpp"

namespace fusco_node {

class DevicePlanner : public Handle<DevicePlanner, Owned<fusco_cuda_planner, fusco_cuda_planner_destroy>> {
 public:
  static constexpr char name[] = "DevicePlanner";
  static constexpr char label[] = "the planner or its context";

  // (context, options, {maxTokens, maxRecvRows?})
  explicit DevicePlanner(const Napi::CallbackInfo &info);

  Napi::Value bufferBytes(const Napi::CallbackInfo &info);

 private:
  uint64_t bufferBytes_ = 0;
};

template <>
struct ClassOf<fusco_cuda_planner> : std::type_identity<DevicePlanner> {};

class BufferedPlan : public Handle<BufferedPlan, Owned<fusco_cuda_plan, fusco_cuda_plan_destroy>> {
 public:
  static constexpr char name[] = "BufferedPlan";
  static constexpr char label[] = "the plan";

  // (planner, buffers, ids?): plans, or attaches plan buffers that are filled already.
  explicit BufferedPlan(const Napi::CallbackInfo &info);

  // (rank) -> {localInstances, expertCounts, expertOffsets, recvRows, overflowRows}: addresses
  Napi::Value describe(const Napi::CallbackInfo &info);
  // (rank) -> rows of the receive buffer; waits
  Napi::Value recvRows(const Napi::CallbackInfo &info);
  // (rank) -> Uint8Array; waits
  Napi::Value shard(const Napi::CallbackInfo &info);
};

}  // namespace fusco_node
