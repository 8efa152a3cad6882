#include "cuda_exchange.hpp"

#include "call_checks.hpp"
#include "cuda_graph.hpp"
#include "dispatch_params.hpp"

namespace fusco::cuda {

namespace {

// Runs `launch(tables, group)` with each device current.
template <class F>
void onDevices(DevicePlan &plan, F launch) {
  CudaContext &context = plan.context();
  for (size_t i = 0; i < context.groups().size(); i++) {
    const DeviceGroup &group = context.groups()[i];
    const OnDevice here(group.device);
    launch(plan.onGroup(i), group);
  }
}

// The ready and done edges of an exchange. In a capture the order of uploads and uses is kept by the graph's
// launch.
class Edges {
 public:
  explicit Edges(DevicePlan &plan) : plan_(plan) {
    CudaContext &context = plan.context();
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    context.check(cudaStreamIsCapturing(context.leader(context.groups().front()), &status),
                  "asking for a capture");
    captured_ = status != cudaStreamCaptureStatusNone;
    context.ready();
    if (!captured_) plan.beginUse();
  }
  void done() {
    if (!captured_) plan_.endUse();
    plan_.context().done();
  }

 private:
  DevicePlan &plan_;
  bool captured_ = false;
};

// Enqueues launch(limits, stream) on every device, with its tables in `params`, between the edges.
template <class Params, class F>
void enqueue(DevicePlan &device, Params &params, const char *what, F launch) {
  Edges edges(device);
  onDevices(device, [&](const PlanMemory &memory, const DeviceGroup &group) {
    params.plan = memory.tables;
    device.context().check(launch(group.limits, device.context().leader(group)), what);
  });
  edges.done();
}

std::vector<DispatchParams> launchesOf(DevicePlan &device, const fusco_dispatch_call &call, bool forward) {
  const fusco_plan &plan = device.plan();
  DispatchParams base{};
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    if (call.origins != nullptr) base.origins[rank] = static_cast<int32_t *>(call.origins[rank].data);
    if (call.scale != nullptr) base.scale[rank] = static_cast<const float *>(call.scale[rank].data);
  }
  return dispatchParams(call, plan.topk, base, [&](uint32_t p, Payload &payload) {
    for (uint32_t rank = 0; rank < plan.ranks; rank++) {
      payload.from[rank] = bytesOf(call.payloads[p].from[rank]);
      payload.to[rank] = bytesOf(call.payloads[p].to[rank]);
      if (forward && payload.perEntry == 0) {
        payload.to[maxRanks + rank] = device.landingRows(rank, p, payload.rowBytes);
      }
    }
  });
}

// Every row to its first place: its slot or, where it is forwarded, where it lands.
void enqueueDispatch(DevicePlan &device, DispatchParams &params, bool scaled, bool forward) {
  CudaContext &context = device.context();
  onDevices(device, [&](const PlanMemory &memory, const DeviceGroup &group) {
    params.plan = memory.tables;
    params.place = forward ? memory.tables.firstHop : memory.tables.place;
    params.barrier = memory.barrier;
    const cudaStream_t stream = context.leader(group);
    if (scaled) {
      context.check(launchScaled(params, group.limits, stream), "launching a scaled dispatch");
    } else {
      params.tiling = tilingOf(params, group.limits, device.plan().topk, forward ? 0 : device.tileTokens());
      context.check(launchDispatch(params, group.limits, stream), "launching a dispatch");
    }
  });
}

// From where rows landed to their other slots.
void enqueueLastHops(DevicePlan &device, DispatchParams &params) {
  CudaContext &context = device.context();
  context.orderLeaders();
  onDevices(device, [&](const PlanMemory &memory, const DeviceGroup &group) {
    params.plan = memory.tables;
    context.check(launchDistribute(params, group.limits, context.leader(group)), "launching the last hops");
  });
}

}  // namespace

void dispatch(DevicePlan &device, fusco_cuda_path path, const fusco_dispatch_call &call,
              fusco_cuda_report &report) {
  check(device, call);
  if (path == FUSCO_CUDA_PATH_FORWARD && !device.forwards()) {
    throw Failure(FUSCO_E_OPTION, "rows are forwarded along hierarchical plans with groups only");
  }
  // Between devices a row is cheaper sent once and copied on there; on one device that only copies it once
  // more.
  const bool several = device.context().groups().size() > 1;
  const bool asked =
      path == FUSCO_CUDA_PATH_FORWARD || (path == FUSCO_CUDA_PATH_AUTO && several && device.forwards());
  const bool scaled = call.scale != nullptr;
  const bool forward = asked && !scaled;
  std::vector<DispatchParams> launches = launchesOf(device, call, forward);
  Edges edges(device);
  for (DispatchParams &params : launches) {
    enqueueDispatch(device, params, scaled, forward);
    if (forward) enqueueLastHops(device, params);
    if (!scaled) report.tma_payloads += params.leading;
  }
  edges.done();
  report.path = forward ? FUSCO_CUDA_PATH_FORWARD : FUSCO_CUDA_PATH_DIRECT;
  countDispatch(device.plan(), call, report.stats);
}

void combine(DevicePlan &device, const fusco_combine_call &call, fusco_cuda_report &report) {
  check(device, call);
  const fusco_plan &plan = device.plan();
  CombineParams params{};
  params.rowBytes = call.row_bytes;
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    params.from[rank] = bytesOf(call.from[rank]);
    params.to[rank] = bytesOf(call.to[rank]);
    if (call.weights != nullptr) params.weights[rank] = static_cast<const float *>(call.weights[rank].data);
  }
  CombineLaunch launch;
  launch.dtype = call.dtype;
  launch.tree = plan.tree;
  launch.isWeighted = call.weights != nullptr;
  launch.unit = unitOf(call.row_bytes | bitsOf(call.from, plan.ranks) | bitsOf(call.to, plan.ranks));
  launch.tokens = device.capacityTokens();
  enqueue(device, params, "launching a combine", [&](const DeviceLimits &limits, cudaStream_t stream) {
    launch.sms = limits.maxCombineSms;
    return launchCombine(params, launch, stream);
  });
  report.path = FUSCO_CUDA_PATH_DIRECT;
  countCombine(plan, call, report.stats);
}

void weightGradient(DevicePlan &device, const fusco_weight_gradient_call &call, fusco_cuda_report &report) {
  check(device, call);
  const fusco_plan &plan = device.plan();
  GradientParams params{};
  params.rowBytes = call.row_bytes;
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    params.upstream[rank] = bytesOf(call.output_gradient[rank]);
    params.from[rank] = bytesOf(call.from[rank]);
    params.to[rank] = static_cast<float *>(call.to[rank].data);
  }
  enqueue(device, params, "launching a gradient", [&](const DeviceLimits &limits, cudaStream_t stream) {
    return launchGradient(params, limits, call.dtype, stream);
  });
  report.path = FUSCO_CUDA_PATH_DIRECT;
  countWeightGradient(plan, call, report.stats);
}

}  // namespace fusco::cuda
