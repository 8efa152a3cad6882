// Checks of calls whose buffers are device memory, for the cuda and nccl backends.
#pragma once

#include "alignment.hpp"
#include "call_checks.hpp"

namespace fusco::cuda {

// Throws E_BUFFER unless the device of rank `rank` of the plan reaches `buffer`, which is not empty.
using CheckReach = std::function<void(const char *name, uint32_t rank, const fusco_buffer &buffer)>;

// Throws E_BUFFER as well where elements do not lie at multiples of their size: the kernels load whole
// elements.
inline CheckMemory checkDeviceMemory(const CheckReach &reach) {
  return [&reach](const char *name, uint32_t rank, const fusco_buffer &buffer, uint32_t elementBytes) {
    reach(name, rank, buffer);
    checkAligned(name, bitsOf(buffer), elementBytes);
  };
}

// Throws E_OPTION, E_BUFFER or E_DTYPE; see checkCall.
template <class Call>
void checkDeviceCall(const fusco_plan &plan, const Call &call, const CheckReach &reach) {
  checkCall(plan, call, checkDeviceMemory(reach));
}

}  // namespace fusco::cuda
