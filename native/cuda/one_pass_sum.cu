#include "one_pass_sum_device.cuh"

namespace fusco::cuda {

namespace {

using one_pass_sum::OwnFirst;
using one_pass_sum::Tuning;

template <class T, class E, class P>
cudaError_t launchTuned(const SumParams &params, const OnePassGrid &grid, cudaStream_t stream) {
  return launchOnePass<one_pass_sum::Shared<T>>(one_pass_sum::sumKernel<T, E, P>, params, grid, T::warps,
                                                stream);
}

template <class E, class P>
cudaError_t launch(SumParams &params, const OnePassGrid &grid, cudaStream_t stream) {
  const uint64_t elements = params.rowBytes / E::bytes;
  const uint64_t perSlice = SliceOf<E, P, Tuning::stageBytes>::elements;
  params.slices = static_cast<uint32_t>((elements + perSlice - 1) / perSlice);
  if constexpr (std::is_same_v<E, P>) {
    if (params.addsOwnFirst != 0) return launchTuned<OwnFirst, E, P>(params, grid, stream);
  }
  return launchTuned<Tuning, E, P>(params, grid, stream);
}

// Calls f(element of rows, element of partial sums) for the dtype.
template <class F>
auto withElements(fusco_dtype dtype, bool keepsPartials, F f) {
  if (dtype == FUSCO_DTYPE_F32) return f(DeviceF32{}, DeviceF32{});
  if (dtype == FUSCO_DTYPE_F16)
    return keepsPartials ? f(DeviceF16{}, DeviceF32{}) : f(DeviceF16{}, DeviceF16{});
  return keepsPartials ? f(DeviceBf16{}, DeviceF32{}) : f(DeviceBf16{}, DeviceBf16{});
}

}  // namespace

cudaError_t launchSum(SumParams params, fusco_dtype dtype, bool keepsPartials, const OnePassGrid &grid,
                      cudaStream_t stream) {
  return withElements(dtype, keepsPartials, [&](auto row, auto partial) {
    return launch<decltype(row), decltype(partial)>(params, grid, stream);
  });
}

uint32_t sumSliceElements(fusco_dtype dtype, bool keepsPartials) {
  return withElements(dtype, keepsPartials, [](auto row, auto partial) -> uint32_t {
    return SliceOf<decltype(row), decltype(partial), Tuning::stageBytes>::elements;
  });
}

}  // namespace fusco::cuda
