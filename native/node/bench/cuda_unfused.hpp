// The JavaScript class CudaUnfused: the pipeline that fusion replaces, on one GPU.
#pragma once

#include "../device_plan.hpp"
#include "fusco_cuda_bench.h"

namespace fusco_node {

// (plan, rowBytes)
using CudaUnfused =
    CreatedHandle<"CudaUnfused", "the pipeline", fusco_cuda_unfused_create, fusco_cuda_unfused_destroy>;

template <>
struct ClassOf<fusco_cuda_unfused> : std::type_identity<CudaUnfused> {};

}  // namespace fusco_node
