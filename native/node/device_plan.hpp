// The JavaScript class DevicePlan: a plan's tables in device memory, at fixed addresses.
#pragma once

#include "calls.hpp"
#include "cuda_context.hpp"

namespace fusco_node {

// A plan as JavaScript describes it: {ranksPerNode, strategy, partial, groups?, shards}. Owns what the struct
// points to, except the shards.
class DevicePlanDesc {
 public:
  explicit DevicePlanDesc(const Fields &fields);
  DevicePlanDesc(DevicePlanDesc &&) = default;

  const fusco_cuda_plan_desc *get() const { return &desc_; }

 private:
  std::vector<fusco_buffer> shards_;
  std::vector<uint16_t> railGroups_;
  fusco_cuda_plan_desc desc_{};
};

template <>
class Argument<const fusco_cuda_plan_desc *> : public DevicePlanDesc {
 public:
  Argument(const Napi::Value &value, const std::string &name, Reading &reading)
      : DevicePlanDesc(Fields(value, name, "", reading.keep)) {}
};

class DevicePlan : public Handle<DevicePlan, Owned<fusco_cuda_plan, fusco_cuda_plan_destroy>> {
 public:
  static constexpr char name[] = "DevicePlan";
  static constexpr char label[] = "the device plan";

  // (context, {the description of a plan, capacity?})
  explicit DevicePlan(const Napi::CallbackInfo &info);

  uint32_t ranks() const { return ranks_; }

  // (call, path) -> report
  Napi::Value dispatch(const Napi::CallbackInfo &info);
  // (call) -> report
  Napi::Value combine(const Napi::CallbackInfo &info);
  Napi::Value weightGradient(const Napi::CallbackInfo &info);

 private:
  template <class C, class Enqueue>
  Napi::Value exchange(const Napi::CallbackInfo &info, Enqueue enqueue);

  uint32_t ranks_ = 0;
};

template <>
struct ClassOf<fusco_cuda_plan> {
  using type = DevicePlan;
};

}  // namespace fusco_node
