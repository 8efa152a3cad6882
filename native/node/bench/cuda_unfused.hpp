// The JavaScript class CudaUnfused: the pipeline that fusion replaces, on one GPU.
#pragma once

#include "../device_plan.hpp"
#include "fusco_cuda_bench.h"

namespace fusco_node {

class CudaUnfused : public Handle<CudaUnfused, Owned<fusco_cuda_unfused, fusco_cuda_unfused_destroy>> {
 public:
  static constexpr char name[] = "CudaUnfused";
  static constexpr char label[] = "the pipeline";

  // (plan, rowBytes)
  explicit CudaUnfused(const Napi::CallbackInfo &info) : Handle(info) {
    handle_.reset(Bound<fusco_cuda_unfused_create>::invoke<0>(info));
    ranks_ = DevicePlan::objectOf(info[0]).ranks();
  }

  // (from, to): enqueues.
  void dispatch(const Napi::CallbackInfo &info) {
    Napi::Array keep = Napi::Array::New(info.Env());
    const std::vector<fusco_buffer> from = memoriesOf(info[0], "from", ranks_, keep);
    const std::vector<fusco_buffer> to = memoriesOf(info[1], "to", ranks_, keep);
    run(info.Env(), fusco_cuda_unfused_dispatch, open(info.Env()).get(), from.data(), to.data());
  }
  // (call): enqueues.
  void combine(const Napi::CallbackInfo &info) {
    const Call<fusco_combine_call> call(Fields(info, 0, Napi::Array::New(info.Env())), ranks_);
    run(info.Env(), fusco_cuda_unfused_combine, open(info.Env()).get(), call.get());
  }

 private:
  uint32_t ranks_;
};

}  // namespace fusco_node
