#include "cuda_exchange.hpp"

#include "call_checks.hpp"
#include "cuda_graph.hpp"
#include "dispatch_params.hpp"
#include "edges.hpp"
#include "one_pass_exchange.hpp"
#include "one_pass_gradient.hpp"

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
// launch. One-pass kernels do not end before all rows of their device have arrived and no other device reads
// from it: their devices need no done edge between one another, and a ready edge of theirs costs less than
// events do. In a capture that the context did not begin all edges are events, because these bring the
// streams of all devices into it.
class Edges {
 public:
  explicit Edges(DevicePlan &plan, bool isOnePass = false) : plan_(plan), order_(plan.context()) {
    CudaContext &context = plan.context();
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    context.check(cudaStreamIsCapturing(context.leader(context.groups().front()), &status),
                  "asking for a capture");
    captured_ = status != cudaStreamCaptureStatusNone;
    usesEvents_ = !isOnePass || (captured_ && context.capturing == nullptr);
    context.ready(usesEvents_);
    if (!captured_) plan.beginUse();
    plan.prepare();
  }
  // Whether memory must be enough for plans that are larger than the one that is there.
  bool isCaptured() const { return captured_ && !plan_.hasFixedSizes(); }
  bool usesEvents() const { return usesEvents_; }
  // Before the first launch of a one-pass exchange, once its memory is there.
  void meet() {
    if (usesEvents_ || hasMet_) return;
    hasMet_ = true;
    CudaContext &context = plan_.context();
    size_t index = 0;
    onDevices(plan_, [&](const PlanMemory &, const DeviceGroup &group) {
      context.check(launchReadyEdge(context.signals().readyEdge(index++), context.leader(group)),
                    "waiting for other devices");
    });
  }
  void done() {
    if (!captured_) plan_.endUse();
    plan_.context().done(usesEvents_);
  }

 private:
  DevicePlan &plan_;
  const DevicesInOrder order_;
  bool captured_ = false;
  bool usesEvents_ = true;
  bool hasMet_ = false;
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

std::vector<DispatchParams> launchesOf(DevicePlan &device, const fusco_dispatch_call &call,
                                       uint64_t minRow = minTmaRow) {
  const fusco_plan &plan = device.plan();
  DispatchParams base{};
  copyPointers(call.origins, plan.ranks, base.origins);
  copyPointers(call.scale, plan.ranks, base.scale);
  const auto fill = [&](uint32_t p, Payload &payload) {
    copyPointers(call.payloads[p].from, plan.ranks, payload.from);
    copyPointers(call.payloads[p].to, plan.ranks, payload.to);
  };
  return dispatchParams(call, plan.topk, base, fill, minRow);
}

// Every row straight to its slots.
void enqueueDispatch(DevicePlan &device, DispatchParams &params, bool scaled) {
  CudaContext &context = device.context();
  onDevices(device, [&](const PlanMemory &memory, const DeviceGroup &group) {
    params.plan = memory.tables;
    params.barrier = memory.barrier;
    const cudaStream_t stream = context.leader(group);
    if (scaled) {
      context.check(launchScaled(params, group.limits, stream), "launching a scaled dispatch");
    } else {
      params.tiling = tilingOf(params, group.limits, device.plan().topk, device.tileTokens());
      context.check(launchDispatch(params, group.limits, stream), "launching a dispatch");
    }
  });
}

// SMs of each device that a launch may fill.
uint32_t smsOf(const CudaContext &context) {
  uint32_t sms = UINT32_MAX;
  for (const DeviceGroup &group : context.groups()) sms = std::min(sms, group.limits.sms);
  return sms;
}

uint32_t combineSmsOf(const CudaContext &context) {
  uint32_t sms = smsOf(context);
  for (const DeviceGroup &group : context.groups()) {
    if (group.limits.maxCombineSms > 0) sms = std::min(sms, group.limits.maxCombineSms);
  }
  return sms;
}

OnePassShape shapeOf(DevicePlan &device, decltype(dispatchShape) choose, uint32_t payloads = 1) {
  const CudaContext &context = device.context();
  return choose({static_cast<uint32_t>(context.groups().size()), smsOf(context), context.hasSmLimit(),
                 device.plan().topk, device.maxTokens(), payloads});
}

// A launch that starts early waits for one launch in front of it. In a capture events of other devices are in
// front of it as well.
OnePassGrid gridOf(const OnePassShape &shape, const Edges &edges) {
  return {shape.grid.blocks, shape.grid.startsEarly && !edges.usesEvents()};
}

// Slices of the rows of all payloads of a call, at least as many as any launch of it has: what a capture
// reserves flags for, and what another plan needs later.
uint64_t mostSlices(const fusco_dispatch_call &call) {
  uint64_t slices = 0;
  for (uint32_t p = 0; p < call.payload_count; p++) {
    slices += (call.payloads[p].row_bytes + moveSliceBytes - 1) / moveSliceBytes;
  }
  return std::max<uint64_t>(1, slices);
}

// Rows once to each rank of another device, which copies them on. `callSlices`: mostSlices() of the call.
void enqueueMove(DevicePlan &device, const DispatchParams &params, uint64_t callSlices, Edges &edges) {
  CudaContext &context = device.context();
  const OnePassShape shape = shapeOf(device, dispatchShape, params.leading);
  MoveParams move{};
  move.dispatch = params;
  move.lag = shape.lag;
  addSlices(move);
  const bool isCaptured = edges.isCaptured();
  const uint32_t ranks = device.plan().ranks;
  const uint64_t flags = isCaptured ? onePassFlags(ranks, device.capacityTokens(), 1, callSlices)
                                    : onePassFlags(ranks, device.maxTokens(), shape.chunkTokens, move.slices);
  context.signals().reserve({flags, 0, {}});
  edges.meet();
  size_t index = 0;
  onDevices(device, [&](const PlanMemory &memory, const DeviceGroup &group) {
    move.common = context.signals().common(index++, memory.onePass, shape.chunkTokens);
    move.dispatch.plan = memory.tables;
    context.check(launchMove(move, gridOf(shape, edges), context.leader(group)),
                  "launching a dispatch between devices");
  });
}

// Whether each rank adds its rows of a token and sends one partial sum: the tree of the plan must say so.
bool sumsPerRank(const DevicePlan &device, uint32_t unit) {
  return device.hasOnePass() && device.plan().tree != Tree::none && device.plan().ranksPerNode == 1 &&
         unit == 16;
}

// Of a combine of ranks of at most `tokens` tokens, with such chunks.
OnePassNeed sumNeed(DevicePlan &device, const fusco_combine_call &call, uint64_t tokens,
                    uint32_t chunkTokens) {
  const fusco_plan &plan = device.plan();
  const bool keepsPartials = plan.tree == Tree::kept;
  const uint64_t elements = call.row_bytes / elementBytes(call.dtype);
  const uint64_t perSlice = sumSliceElements(call.dtype, keepsPartials);
  OnePassNeed need;
  need.flags = onePassFlags(plan.ranks, tokens, chunkTokens, (elements + perSlice - 1) / perSlice);
  if (call.weights != nullptr) need.pushedEntries = device.allTokens() * plan.topk;
  const uint64_t rowBytes = keepsPartials ? elements * sizeof(float) : call.row_bytes;
  for (const uint32_t rows : device.sumLandingRows()) need.landingBytes.push_back(rows * rowBytes);
  return need;
}

// A graph keeps the memory of its capture: it gets what any plan of the device plan's capacity needs, except
// that landing rows which would take more than this are those of the captured plan and a quarter more.
constexpr uint64_t capturedLandingBytes = uint64_t{256} << 20;

OnePassNeed capturedNeed(const DevicePlan &device, const fusco_combine_call &call, OnePassNeed need) {
  const uint64_t tokens = device.capacityTokens();
  if (call.weights != nullptr) need.pushedEntries = tokens * device.plan().topk;
  const uint64_t rows = tokens * std::min(device.plan().topk, device.plan().ranks);
  for (uint32_t rank = 0; rank < need.landingBytes.size(); rank++) {
    uint64_t &bytes = need.landingBytes[rank];
    const uint64_t most = rows * call.row_bytes * (device.plan().tree == Tree::kept ? 2 : 1);
    bytes = most <= capturedLandingBytes ? most : bytes + bytes / 4;
  }
  return need;
}

void enqueueSum(DevicePlan &device, const fusco_combine_call &call, const CombineParams &params,
                Edges &edges) {
  CudaContext &context = device.context();
  const OnePassShape shape = shapeOf(device, combineShape);
  if (edges.isCaptured()) {
    context.signals().reserve(capturedNeed(device, call, sumNeed(device, call, device.capacityTokens(), 1)));
  } else {
    context.signals().reserve(sumNeed(device, call, device.maxTokens(), shape.chunkTokens));
  }
  edges.meet();
  SumParams sum{};
  sum.rowBytes = params.rowBytes;
  sum.senders = shape.senders;
  sum.isWeighted = call.weights != nullptr ? 1 : 0;
  std::copy(params.from, params.from + maxRanks, sum.from);
  std::copy(params.to, params.to + maxRanks, sum.to);
  std::copy(params.weights, params.weights + maxRanks, sum.weights);
  context.signals().addSum(sum);
  size_t index = 0;
  onDevices(device, [&](const PlanMemory &memory, const DeviceGroup &group) {
    sum.common = context.signals().common(index++, memory.onePass, shape.chunkTokens);
    sum.addsOwnFirst = mayAddOwnFirst(static_cast<uint32_t>(group.ranks.size()), device.plan().topk);
    context.check(launchSum(sum, call.dtype, device.plan().tree == Tree::kept, gridOf(shape, edges),
                            context.leader(group)),
                  "launching a combine between devices");
  });
}

// Whether the rows of a combine gradient cross links once per destination rank.
bool gradientIsOnePass(const DevicePlan &device, const fusco_combine_gradient_call &call) {
  const uint32_t ranks = device.plan().ranks;
  const uint64_t bits =
      bitsOf(call.output_gradient, ranks) | bitsOf(call.from, ranks) | bitsOf(call.to, ranks);
  return device.hasOnePass() && unitOf(call.row_bytes | bits) == 16;
}

// Of a combine gradient of ranks of at most `tokens` tokens, `all` together, with such chunks.
OnePassNeed gradientNeed(const fusco_plan &plan, uint64_t tokens, uint64_t all, uint32_t chunkTokens) {
  return {onePassFlags(plan.ranks, tokens, chunkTokens, gradientFlags), all * plan.topk, {}};
}

void enqueueGradient(DevicePlan &device, const fusco_combine_gradient_call &call,
                     const DispatchParams &dispatch, Edges &edges) {
  CudaContext &context = device.context();
  const fusco_plan &plan = device.plan();
  const OnePassShape shape = shapeOf(device, gradientShape);
  const uint64_t capacity = device.capacityTokens();
  context.signals().reserve(
      edges.isCaptured() ? gradientNeed(plan, capacity, capacity, 1)
                         : gradientNeed(plan, device.maxTokens(), device.allTokens(), shape.chunkTokens));
  edges.meet();
  CombineGradientParams params{};
  params.dispatch = dispatch;
  params.lag = shape.lag;
  params.pushedEntries = context.signals().pushedEntries();
  for (size_t i = 0; i < context.groups().size(); i++) {
    for (const uint32_t rank : context.groups()[i].ranks) params.pushed[rank] = context.signals().pushed(i);
  }
  copyPointers(call.from, plan.ranks, params.rows);
  copyPointers(call.weights_gradient, plan.ranks, params.weightsGradient);
  size_t index = 0;
  onDevices(device, [&](const PlanMemory &memory, const DeviceGroup &group) {
    params.common = context.signals().common(index++, memory.onePass, shape.chunkTokens);
    params.dispatch.plan = memory.tables;
    context.check(launchCombineGradient(params, gridOf(shape, edges), context.leader(group)),
                  "launching a combine gradient between devices");
  });
}

void enqueueWeightGradient(DevicePlan &device, const fusco_weight_gradient_call &call) {
  CudaContext &context = device.context();
  GradientParams params{};
  params.rowBytes = call.row_bytes;
  copyPointers(call.output_gradient, device.plan().ranks, params.upstream);
  copyPointers(call.from, device.plan().ranks, params.from);
  copyPointers(call.to, device.plan().ranks, params.to);
  const uint32_t unit = unitOf(call.row_bytes | bitsOf(call.output_gradient, device.plan().ranks) |
                               bitsOf(call.from, device.plan().ranks));
  onDevices(device, [&](const PlanMemory &memory, const DeviceGroup &group) {
    params.plan = memory.tables;
    context.check(launchGradient(params, group.limits, call.dtype, unit, context.leader(group)),
                  "launching a gradient");
  });
}

}  // namespace

OnePassNeed onePassNeed(DevicePlan &device, const fusco_combine_gradient_call &call) {
  const fusco_plan &plan = device.plan();
  if (!gradientIsOnePass(device, call)) return {};
  return gradientNeed(plan, device.maxTokens(), device.allTokens(), 1);
}

OnePassNeed onePassNeed(DevicePlan &device, const fusco_dispatch_call &call) {
  if (!device.hasOnePass() || call.scale != nullptr) return {};
  return {onePassFlags(device.plan().ranks, device.maxTokens(), 1, mostSlices(call)), 0, {}};
}

OnePassNeed onePassNeed(DevicePlan &device, const fusco_combine_call &call) {
  const uint32_t ranks = device.plan().ranks;
  const uint32_t unit = unitOf(call.row_bytes | bitsOf(call.from, ranks) | bitsOf(call.to, ranks));
  if (!sumsPerRank(device, unit)) return {};
  return sumNeed(device, call, device.maxTokens(), 1);
}

void dispatch(DevicePlan &device, fusco_cuda_path path, const fusco_dispatch_call &call,
              fusco_cuda_report &report) {
  check(device, call);
  if (path == FUSCO_CUDA_PATH_ONCE && !device.hasOnePass()) {
    throw Failure(FUSCO_E_OPTION,
                  "rows are sent once per rank between devices only; the context has one device");
  }
  const bool scaled = call.scale != nullptr;
  const bool once =
      !scaled && device.hasOnePass() && (path == FUSCO_CUDA_PATH_AUTO || path == FUSCO_CUDA_PATH_ONCE);
  std::vector<DispatchParams> launches = launchesOf(device, call, once ? minOnePassTmaRow : minTmaRow);
  Edges edges(device, once);
  for (DispatchParams &params : launches) {
    if (once) {
      enqueueMove(device, params, mostSlices(call), edges);
    } else {
      enqueueDispatch(device, params, scaled);
    }
    if (!scaled) report.tma_payloads += params.leading;
  }
  edges.done();
  report.path = once ? FUSCO_CUDA_PATH_ONCE : FUSCO_CUDA_PATH_DIRECT;
  report.sms =
      once ? shapeOf(device, dispatchShape, launches.front().leading).grid.blocks : smsOf(device.context());
  countDispatch(device.plan(), call, report.stats);
}

void combine(DevicePlan &device, const fusco_combine_call &call, fusco_cuda_report &report) {
  check(device, call);
  const fusco_plan &plan = device.plan();
  CombineParams params{};
  params.rowBytes = call.row_bytes;
  copyPointers(call.from, plan.ranks, params.from);
  copyPointers(call.to, plan.ranks, params.to);
  copyPointers(call.weights, plan.ranks, params.weights);
  CombineLaunch launch;
  launch.dtype = call.dtype;
  launch.tree = plan.tree;
  launch.isWeighted = call.weights != nullptr;
  launch.unit = unitOf(call.row_bytes | bitsOf(call.from, plan.ranks) | bitsOf(call.to, plan.ranks));
  launch.tokens = device.capacityTokens();
  const bool once = sumsPerRank(device, launch.unit);
  if (once) {
    Edges edges(device, true);
    enqueueSum(device, call, params, edges);
    edges.done();
  } else {
    enqueue(device, params, "launching a combine", [&](const DeviceLimits &limits, cudaStream_t stream) {
      launch.sms = limits.maxCombineSms;
      return launchCombine(params, launch, stream);
    });
  }
  report.path = once ? FUSCO_CUDA_PATH_ONCE : FUSCO_CUDA_PATH_DIRECT;
  report.sms = once ? shapeOf(device, combineShape).grid.blocks : combineSmsOf(device.context());
  countCombine(plan, call, report.stats);
}

void weightGradient(DevicePlan &device, const fusco_weight_gradient_call &call, fusco_cuda_report &report) {
  check(device, call);
  Edges edges(device);
  enqueueWeightGradient(device, call);
  edges.done();
  report.path = FUSCO_CUDA_PATH_DIRECT;
  report.sms = smsOf(device.context());
  countWeightGradient(device.plan(), call, report.stats);
}

void combineGradient(DevicePlan &device, const fusco_combine_gradient_call &call, fusco_cuda_report &report) {
  check(device, call);
  const CombineGradientParts parts(call);
  const bool once = gradientIsOnePass(device, call);
  DispatchParams dispatch = launchesOf(device, parts.dispatch).front();
  Edges edges(device, once);
  if (once) {
    enqueueGradient(device, call, dispatch, edges);
  } else {
    enqueueDispatch(device, dispatch, true);
    enqueueWeightGradient(device, parts.weightGradient);
  }
  edges.done();
  report.path = once ? FUSCO_CUDA_PATH_ONCE : FUSCO_CUDA_PATH_DIRECT;
  report.sms = smsOf(device.context());
  countCombineGradient(device.plan(), call, report.stats);
}

}  // namespace fusco::cuda
