// Calls of the C interface take turns on their context.
#pragma once

#include "device_plan.hpp"
#include "device_planner.hpp"
#include "guard.hpp"

namespace fusco::cuda {

template <class Handle>
const std::shared_ptr<CudaContext> &contextOf(const Handle &handle) {
  return handle.context;
}
inline const std::shared_ptr<CudaContext> &contextOf(const fusco_cuda_context &handle) {
  return handle.shared;
}
inline const std::shared_ptr<CudaContext> &contextOf(const fusco_cuda_planner &handle) {
  return handle.shared->contextHandle();
}
inline const std::shared_ptr<CudaContext> &contextOf(const fusco_cuda_plan &handle) {
  return handle.shared->contextHandle();
}

// Runs work(context) with the lock of the handle's context, unless an argument is missing. The device of rank
// 0 is current: default streams, which other libraries may have set as the streams of ranks, are those of the
// current device.
template <class Handle, class F>
fusco_status evenIfFailed(const Handle *handle, bool given, fusco_error *error, F work) {
  return guarded(error, [&] {
    if (handle == nullptr || !given) throw Failure(FUSCO_E_OPTION, "a handle or an argument is NULL");
    CudaContext &context = *contextOf(*handle);
    const std::lock_guard<std::mutex> turn(context.mutex);
    const OnDevice here(context.deviceOf(0));
    work(context);
  });
}

// The same, unless the GPU or a kernel has failed before.
template <class Handle, class F>
fusco_status inTurn(const Handle *handle, bool given, fusco_error *error, F work) {
  return evenIfFailed(handle, given, error, [&](CudaContext &context) {
    context.checkAlive();
    work(context);
  });
}

template <class Handle, class F>
fusco_status inTurn(const Handle *handle, fusco_error *error, F work) {
  return inTurn(handle, true, error, work);
}

}  // namespace fusco::cuda
