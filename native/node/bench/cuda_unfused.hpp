// The JavaScript class CudaUnfused: the pipeline that fusion replaces, on one GPU.
#pragma once

#include "../device_plan.hpp"
#include "fusco_cuda_bench.h"

namespace fusco_node {

// (plan, rowBytes)
class CudaUnfused
    : public Created<CudaUnfused, fusco_cuda_unfused_create, fusco_cuda_unfused, fusco_cuda_unfused_destroy> {
 public:
  static constexpr char name[] = "CudaUnfused";
  static constexpr char label[] = "the pipeline";

  using Created::Created;
};

template <>
struct ClassOf<fusco_cuda_unfused> : std::type_identity<CudaUnfused> {};

}  // namespace fusco_node
