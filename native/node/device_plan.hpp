// The JavaScript class DevicePlan: a plan's tables in device memory, at fixed addresses.
#pragma once

#include "cuda_context.hpp"
#include "plan_desc.hpp"

namespace fusco_node {

// {tokens?, topk?, instances?}
template <>
inline fusco_cuda_capacity structOf(const Fields &fields, uint32_t) {
  fusco_cuda_capacity capacity = fusco_sized<fusco_cuda_capacity>();
  capacity.tokens = fields.get<uint32_t>("tokens");
  capacity.topk = fields.get<uint32_t>("topk");
  capacity.instances = fields.get<uint32_t>("instances");
  return capacity;
}

template <>
class Argument<fusco_cuda_path> {
 public:
  Argument(const Napi::Value &value, const std::string &, Reading &)
      : path_(choiceOf<fusco_cuda_path>(value, "path",
                                        {{"auto", FUSCO_CUDA_PATH_AUTO},
                                         {"direct", FUSCO_CUDA_PATH_DIRECT},
                                         {"once", FUSCO_CUDA_PATH_ONCE}})) {}
  fusco_cuda_path get() const { return path_; }

 private:
  fusco_cuda_path path_;
};

// (context, capacity, the description of a plan)
using DevicePlan =
    CreatedHandle<"DevicePlan", "the device plan", fusco_cuda_plan_create, fusco_cuda_plan_destroy>;

template <>
struct ClassOf<fusco_cuda_plan> : std::type_identity<DevicePlan> {};

}  // namespace fusco_node
