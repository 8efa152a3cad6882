#include "cuda_graph.hpp"

#include "cuda_exchange.hpp"
#include "failure.hpp"

namespace fusco::cuda {

CapturedCall::CapturedCall(const std::shared_ptr<DevicePlan> &ofPlan, Kind theKind)
    : device(ofPlan),
      generation(ofPlan->generation()),
      topk(ofPlan->plan().topk),
      tree(ofPlan->plan().tree),
      kind(theKind) {
  if (device->hasOnePass()) capacity = device->context().signals().capacity();
}

const fusco_buffer *CapturedCall::keep(const fusco_buffer *given) {
  if (given == nullptr) return nullptr;
  return buffers.emplace_back(given, given + device->plan().ranks).data();
}

void CapturedCall::checkAgain() {
  if (device->generation() == generation) return;
  const fusco_plan &plan = device->plan();
  if (plan.topk != topk || plan.tree != tree || (kind == Kind::forwarded && !device->forwards())) {
    throw Failure(FUSCO_E_OPTION,
                  "the captured plan has topk %u; the uploaded one has topk %u or another strategy", topk,
                  plan.topk)
        .limited(plan.topk, topk);
  }
  if (kind == Kind::combine) {
    checkCombine(*device, combine);
  } else if (kind == Kind::gradient) {
    checkWeightGradient(*device, gradient);
  } else {
    checkDispatch(*device, dispatch);
  }
  OnePassNeed need;
  if (kind == Kind::combine) need = onePassNeed(*device, combine);
  if (kind == Kind::dispatch) need = onePassNeed(*device, dispatch);
  if (!need.fitsIn(capacity)) {
    throw Failure(FUSCO_E_BUFFER, "the plan needs more flags or landing rows than there were at the capture");
  }
  generation = device->generation();
}

void Graph::add(const std::shared_ptr<DevicePlan> &device, const fusco_dispatch_call &call, bool forwarded) {
  CapturedCall &copy =
      calls_.emplace_back(device, forwarded ? CapturedCall::Kind::forwarded : CapturedCall::Kind::dispatch);
  copy.payloads.assign(call.payloads, call.payloads + call.payload_count);
  for (fusco_payload &payload : copy.payloads) {
    payload.from = copy.keep(payload.from);
    payload.to = copy.keep(payload.to);
  }
  copy.dispatch = call;
  copy.dispatch.payloads = copy.payloads.data();
  copy.dispatch.origins = copy.keep(call.origins);
  copy.dispatch.scale = copy.keep(call.scale);
}

void Graph::add(const std::shared_ptr<DevicePlan> &device, const fusco_combine_call &call) {
  CapturedCall &copy = calls_.emplace_back(device, CapturedCall::Kind::combine);
  copy.combine = call;
  copy.combine.from = copy.keep(call.from);
  copy.combine.to = copy.keep(call.to);
  copy.combine.weights = copy.keep(call.weights);
}

void Graph::add(const std::shared_ptr<DevicePlan> &device, const fusco_weight_gradient_call &call) {
  CapturedCall &copy = calls_.emplace_back(device, CapturedCall::Kind::gradient);
  copy.gradient = call;
  copy.gradient.output_gradient = copy.keep(call.output_gradient);
  copy.gradient.from = copy.keep(call.from);
  copy.gradient.to = copy.keep(call.to);
}

std::unique_ptr<Graph> Graph::begin(const std::shared_ptr<CudaContext> &context) {
  std::unique_ptr<Graph> graph(new Graph(context));
  graph->joins_.resize(context->ranks() + 1);
  for (uint32_t rank = 0; rank < context->ranks(); rank++) {
    graph->joins_[rank].create(context->deviceOf(rank), Timing::off);
  }
  Event &fork = graph->joins_.back();
  fork.create(context->deviceOf(0), Timing::off);
  const cudaStream_t origin = context->stream(0);
  context->check(cudaStreamBeginCapture(origin, cudaStreamCaptureModeThreadLocal), "beginning a capture");
  // The other streams join the capture by waiting for an event of it.
  context->check(cudaEventRecord(fork.get(), origin), "forking a capture");
  for (uint32_t rank = 1; rank < context->ranks(); rank++) {
    if (context->stream(rank) == origin) continue;
    context->check(cudaStreamWaitEvent(context->stream(rank), fork.get(), 0), "forking a capture");
  }
  return graph;
}

void Graph::end() {
  const cudaStream_t origin = context_->stream(0);
  for (uint32_t rank = 1; rank < context_->ranks(); rank++) {
    if (context_->stream(rank) == origin) continue;
    context_->check(cudaEventRecord(joins_[rank].get(), context_->stream(rank)), "joining a capture");
    context_->check(cudaStreamWaitEvent(origin, joins_[rank].get(), 0), "joining a capture");
  }
  cudaGraph_t graph = nullptr;
  context_->check(cudaStreamEndCapture(origin, &graph), "ending a capture");
  const cudaError_t error = cudaGraphInstantiate(&exec_, graph, 0);
  cudaGraphDestroy(graph);
  context_->check(error, "instantiating a graph");
}

void Graph::launch() {
  for (CapturedCall &call : calls_) call.checkAgain();
  const OnDevice here(context_->deviceOf(0));
  context_->ready();
  for (CapturedCall &call : calls_) call.device->beginUse();
  // The graph runs on one stream, after everything that any leader waits for.
  context_->orderLeaders();
  context_->check(cudaGraphLaunch(exec_, context_->stream(0)), "launching a graph");
  context_->orderLeaders();
  for (CapturedCall &call : calls_) call.device->endUse();
  context_->done();
}

Graph::~Graph() {
  if (exec_ == nullptr) return;
  cudaGraphExecDestroy(exec_);
}

}  // namespace fusco::cuda
