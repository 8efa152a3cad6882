// The sizes that fix the layout of plan buffers.
#pragma once

#include "plan_buffer.hpp"
#include "spec.hpp"

namespace fusco::cuda {

// Throws E_OPTION for AUTO, E_LIMIT where the counts of a plan could pass a limit of the format.
PlanSizes planSizes(const planning::Spec &spec, const fusco_cuda_plan_limits &limits);
// Bytes of a plan buffer.
uint64_t planBufferBytes(const PlanSizes &sizes);
// Rows that a rank may receive, padding included, before they are clipped.
uint64_t mostRecvRows(const PlanSizes &sizes);

}  // namespace fusco::cuda
