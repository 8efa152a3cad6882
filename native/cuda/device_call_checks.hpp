// Checks of a call whose buffers are device memory, for the cuda and nccl backends. They come on top of
// core/call_checks.hpp and need the same lock.
#pragma once

#include <functional>

#include "alignment.hpp"
#include "plan.hpp"

namespace fusco::cuda {

// Throws E_BUFFER unless the device of rank `rank` of the plan reaches `buffer`, which is not empty.
using CheckReach = std::function<void(const char *name, uint32_t rank, const fusco_buffer &buffer)>;

// Throw E_OPTION, E_BUFFER or E_DTYPE. Elements must lie at multiples of their size.
void checkDeviceCall(const fusco_plan &plan, const fusco_dispatch_call &call, const CheckReach &reach);
void checkDeviceCall(const fusco_plan &plan, const fusco_combine_call &call, const CheckReach &reach);
void checkDeviceCall(const fusco_plan &plan, const fusco_weight_gradient_call &call, const CheckReach &reach);
void checkDeviceCall(const fusco_plan &plan, const fusco_combine_gradient_call &call,
                     const CheckReach &reach);

}  // namespace fusco::cuda
