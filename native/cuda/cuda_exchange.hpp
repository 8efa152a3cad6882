// The exchanges on the devices. Each checks its call, enqueues on every device, and throws Failure before
// anything is enqueued, or not at all but for errors of CUDA.
#pragma once

#include "device_call_checks.hpp"
#include "device_plan.hpp"

namespace fusco::cuda {

void dispatch(DevicePlan &plan, fusco_cuda_path path, const fusco_dispatch_call &call,
              fusco_cuda_report &report);
void combine(DevicePlan &plan, const fusco_combine_call &call, fusco_cuda_report &report);
void weightGradient(DevicePlan &plan, const fusco_weight_gradient_call &call, fusco_cuda_report &report);
void combineGradient(DevicePlan &plan, const fusco_combine_gradient_call &call, fusco_cuda_report &report);

// Memory that launches of a captured call need with the plan that is there now; none where it has no one-pass
// form.
OnePassNeed onePassNeed(DevicePlan &device, const fusco_dispatch_call &call);
OnePassNeed onePassNeed(DevicePlan &device, const fusco_combine_call &call);
OnePassNeed onePassNeed(DevicePlan &device, const fusco_combine_gradient_call &call);
inline OnePassNeed onePassNeed(DevicePlan &, const fusco_weight_gradient_call &) { return {}; }

// The checks of a call alone, for captured calls whose plan has changed.
template <class Call>
void check(DevicePlan &plan, const Call &call) {
  checkDeviceCall(plan.plan(), call, [&](const char *name, uint32_t rank, const fusco_buffer &buffer) {
    plan.context().checkReach(name, rank, buffer.data);
  });
}

}  // namespace fusco::cuda
