#include "unfused.hpp"

namespace fusco_node {

CudaUnfused::CudaUnfused(const Napi::CallbackInfo &info) : Handle(info) {
  handle_.reset(Bound<fusco_cuda_unfused_create>::invoke<0>(info));
  ranks_ = DevicePlan::objectOf(info[0]).ranks();
}

void CudaUnfused::dispatch(const Napi::CallbackInfo &info) {
  Napi::Array keep = Napi::Array::New(info.Env());
  const std::vector<fusco_buffer> from = memoriesOf(info[0], "from", ranks_, keep);
  const std::vector<fusco_buffer> to = memoriesOf(info[1], "to", ranks_, keep);
  fusco_error error{};
  check(info.Env(), fusco_cuda_unfused_dispatch(open(info.Env()).get(), from.data(), to.data(), &error),
        error);
}

void CudaUnfused::combine(const Napi::CallbackInfo &info) {
  const Call<fusco_combine_call> call(Fields(info, 0, Napi::Array::New(info.Env())), ranks_);
  fusco_error error{};
  check(info.Env(), fusco_cuda_unfused_combine(open(info.Env()).get(), call.get(), &error), error);
}

}  // namespace fusco_node
