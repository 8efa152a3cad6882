// Everything that the published addon exports. `call` takes a function of the C interface as it is; the other
// methods are members of the class. The arity of each is the number of its arguments in
// executor/native/types.ts.

#include "audit.hpp"
#include "device_plan.hpp"
#include "device_planner.hpp"
#include "exports.hpp"
#include "nccl_plan.hpp"
#include "nccl_planner.hpp"
#include "plan.hpp"
#include "plan_file.hpp"
#include "planner.hpp"
#include "rows.hpp"

namespace fusco_node {

namespace {

// (memory) -> address
Napi::Value addressOf(const Napi::CallbackInfo &info) {
  Napi::Array keep = Napi::Array::New(info.Env());
  return valueFor(info.Env(), memoryOf(info[0], "the memory", 0, keep).data);
}

void describeHost(Napi::Env env, Exports &exports) {
  exports.add(Members<Context>(env, 1)
                  .property<fusco_context_threads>("threads")
                  .property<fusco_context_kernels>("kernels")
                  .property("closed", &Context::closed)
                  .method("close", &Context::close, 0));
  exports.add(Members<Plan>(env, 2)
                  .property("closed", &Plan::closed)
                  .method("dispatch", &Plan::later<fusco_dispatch>, 1)
                  .call<fusco_dispatch>("dispatchSync")
                  .method("combine", &Plan::later<fusco_combine>, 1)
                  .call<fusco_combine>("combineSync")
                  .method("weightGradient", &Plan::later<fusco_weight_gradient>, 1)
                  .call<fusco_weight_gradient>("weightGradientSync")
                  .method("combineGradient", &Plan::later<fusco_combine_gradient>, 1)
                  .call<fusco_combine_gradient>("combineGradientSync")
                  .method("close", &Plan::close, 0));
  exports.add(Members<Planner>(env, 1)
                  .method("describe", &Planner::describe, 0)
                  .method("count", &Planner::count, 2)
                  .method("countAgain", &Planner::countAgain, 3)
                  .method("decide", &Planner::decide, 2)
                  .method("shard", &Planner::shard, 4)
                  .method("close", &Planner::close, 0));
  exports.add(Members<PlanFile>(env, 1)
                  .method("planId", &PlanFile::planId, 0)
                  .method("shard", &PlanFile::shard, 1)
                  .method("checkRouting", &PlanFile::checkRouting, 1)
                  .method("write", &PlanFile::write, 2)
                  .method("close", &PlanFile::close, 0));
  exports.add(Members<Audit>(env, 2)
                  .call<fusco_audit_rows>("rows")
                  .method("setInput", &Audit::setInput, 1)
                  .method("origins", &Audit::origins, 2)
                  .method("dispatch", &Audit::dispatch, 1)
                  .method("combine", &Audit::combine, 1)
                  .method("close", &Audit::close, 0));
  exports.function("auditLayouts", auditLayouts, 0).function("auditOrders", auditOrders, 0);
  exports.function("addressOf", addressOf, 1)
      .call<fusco_fp8_quantize>("fp8Quantize")
      .call<fusco_fp8_dequantize>("fp8Dequantize")
      .call<fusco_gate>("gate")
      .call<fusco_gate_backward>("gateBackward");
}

void describeCuda(Napi::Env env, Exports &exports) {
  exports.add(Members<CudaContext>(env, 2)
                  .call<fusco_cuda_alloc>("alloc")
                  .call<fusco_cuda_free>("free")
                  .method("copy", &CudaContext::copy, 4)
                  .call<fusco_cuda_fill>("fill")
                  .call<fusco_cuda_stream>("stream")
                  .call<fusco_cuda_set_stream>("setStream")
                  .call<fusco_cuda_limit_sms>("limitSms")
                  .call<fusco_cuda_check>("check")
                  .call<fusco_cuda_synchronize>("synchronize")
                  .call<fusco_cuda_capture_begin>("captureBegin")
                  .method("close", &CudaContext::close, 0));
  exports.add(Members<DevicePlan>(env, 3)
                  .property<fusco_cuda_plan_bytes>("bytes")
                  .call<fusco_cuda_plan_upload>("upload")
                  .call<fusco_cuda_dispatch>("dispatch")
                  .call<fusco_cuda_combine>("combine")
                  .call<fusco_cuda_weight_gradient>("weightGradient")
                  .call<fusco_cuda_combine_gradient>("combineGradient")
                  .method("close", &DevicePlan::close, 0));
  exports.add(Members<DevicePlanner>(env, 3)
                  .property("bufferBytes", &DevicePlanner::bufferBytes)
                  .method("close", &DevicePlanner::close, 0));
  exports.add(Members<BufferedPlan>(env, 3)
                  .method("describe", &BufferedPlan::describe, 1)
                  .method("recvRows", &BufferedPlan::recvRows, 1)
                  .method("shard", &BufferedPlan::shard, 1)
                  .method("dispatch", &BufferedPlan::dispatch, 2)
                  .method("combine", &BufferedPlan::exchange<fusco_cuda_combine>, 1)
                  .method("weightGradient", &BufferedPlan::exchange<fusco_cuda_weight_gradient>, 1)
                  .method("combineGradient", &BufferedPlan::exchange<fusco_cuda_combine_gradient>, 1)
                  .method("close", &BufferedPlan::close, 0));
  exports.add(Members<CudaEvent>(env, 2)
                  .call<fusco_cuda_event_record>("record")
                  .call<fusco_cuda_event_wait>("wait")
                  .call<fusco_cuda_event_query>("query")
                  .call<fusco_cuda_event_synchronize>("synchronize")
                  .call<fusco_cuda_event_elapsed>("elapsed")
                  .method("close", &CudaEvent::close, 0));
  exports.add(Members<CudaGraph>(env, 1).call<fusco_cuda_graph_launch>("launch").method(
      "close", &CudaGraph::close, 0));
  exports.function("cudaDevices", cudaDevices, 0)
      .call<fusco_cuda_fp8_quantize>("cudaFp8Quantize")
      .call<fusco_cuda_fp8_dequantize>("cudaFp8Dequantize")
      .call<fusco_cuda_gate>("cudaGate")
      .call<fusco_cuda_gate_backward>("cudaGateBackward");
}

void describeNccl(Napi::Env env, Exports &exports) {
  exports.add(Members<NcclGroup>(env, 2)
                  .method("open", &NcclGroup::open, 0)
                  .method("allGather", &NcclGroup::allGather, 3)
                  .method("register", &NcclGroup::share<fusco_nccl_register>, 1)
                  .method("deregister", &NcclGroup::share<fusco_nccl_deregister>, 1)
                  .method("check", &NcclGroup::check, 0)
                  .method("abort", &NcclGroup::abort, 1)
                  .method("close", &NcclGroup::close, 0));
  exports.add(Members<NcclPlan>(env, 2)
                  .method("open", &NcclPlan::open, 2)
                  .method("bytes", &NcclPlan::bytes, 1)
                  .method("dispatch", &NcclPlan::exchange<fusco_nccl_dispatch>, 4)
                  .method("combine", &NcclPlan::exchange<fusco_nccl_combine>, 4)
                  .method("weightGradient", &NcclPlan::exchange<fusco_nccl_weight_gradient>, 4)
                  .method("combineGradient", &NcclPlan::exchange<fusco_nccl_combine_gradient>, 4)
                  .method("close", &NcclPlan::close, 0));
  exports.add(Members<NcclPlanner>(env, 3)
                  .property("bufferBytes", &NcclPlanner::bufferBytes)
                  .method("open", &NcclPlanner::open, 2)
                  .method("close", &NcclPlanner::close, 0));
  exports.add(Members<NcclBufferedPlan>(env, 3)
                  .method("open", &NcclBufferedPlan::open, 2)
                  .method("describe", &NcclBufferedPlan::describe, 0)
                  .method("recvRows", &NcclBufferedPlan::recvRows, 0)
                  .method("shard", &NcclBufferedPlan::shard, 0)
                  .method("bytes", &NcclBufferedPlan::bytes, 1)
                  .method("dispatch", &NcclBufferedPlan::exchange<fusco_nccl_dispatch>, 4)
                  .method("combine", &NcclBufferedPlan::exchange<fusco_nccl_combine>, 4)
                  .method("weightGradient", &NcclBufferedPlan::exchange<fusco_nccl_weight_gradient>, 4)
                  .method("combineGradient", &NcclBufferedPlan::exchange<fusco_nccl_combine_gradient>, 4)
                  .method("close", &NcclBufferedPlan::close, 0));
  exports.function("ncclLibrary", ncclLibrary, 1).function("ncclUniqueId", ncclUniqueId, 0);
}

}  // namespace

void describe(Napi::Env env, Exports &exports) {
  describeHost(env, exports);
  describeCuda(env, exports);
  describeNccl(env, exports);
}

}  // namespace fusco_node
