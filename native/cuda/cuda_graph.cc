#include "cuda_graph.hpp"

#include "cuda_exchange.hpp"
#include "failure.hpp"

namespace fusco::cuda {

CapturedCall::CapturedCall(const std::shared_ptr<DevicePlan> &ofPlan, const AnyCall &given)
    : device(ofPlan),
      generation(ofPlan->generation()),
      topk(ofPlan->plan().topk),
      tree(ofPlan->plan().tree),
      call(given) {
  std::visit([this](auto &own) { keep(own); }, call);
  if (device->hasOnePass()) capacity = device->context().signals().capacity();
}

void CapturedCall::keep(fusco_dispatch_call &own) {
  payloads.assign(own.payloads, own.payloads + own.payload_count);
  for (fusco_payload &payload : payloads) keep({&payload.from, &payload.to});
  own.payloads = payloads.data();
  keep({&own.origins, &own.scale});
}

void CapturedCall::keep(fusco_combine_call &own) { keep({&own.from, &own.to, &own.weights}); }

void CapturedCall::keep(fusco_weight_gradient_call &own) { keep({&own.output_gradient, &own.from, &own.to}); }

void CapturedCall::keep(fusco_combine_gradient_call &own) {
  keep({&own.output_gradient, &own.from, &own.weights, &own.to, &own.weights_gradient, &own.origins});
}

void CapturedCall::keep(std::initializer_list<const fusco_buffer **> lists) {
  for (const fusco_buffer **list : lists) {
    if (*list != nullptr) *list = buffers.emplace_back(*list, *list + device->plan().ranks).data();
  }
}

void CapturedCall::checkAgain() {
  if (device->generation() == generation) return;
  const fusco_plan &plan = device->plan();
  if (plan.topk != topk || plan.tree != tree) {
    throw Failure(
        FUSCO_E_OPTION,
        "the captured plan has topk %u; the uploaded one has topk %u, or another strategy or order of sums",
        topk, plan.topk)
        .limited(plan.topk, topk);
  }
  const auto checkOne = [this](const auto &own) {
    check(*device, own);
    if (onePassNeed(*device, own).fitsIn(capacity)) return;
    throw Failure(FUSCO_E_BUFFER, "the plan needs more flags or landing rows than there were at the capture");
  };
  std::visit(checkOne, call);
  generation = device->generation();
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
  graph->isCapturing_ = true;
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
  isCapturing_ = false;
  context_->check(cudaStreamEndCapture(origin, &graph), "ending a capture");
  const cudaError_t error = cudaGraphInstantiate(&exec_, graph, 0);
  cudaGraphDestroy(graph);
  context_->check(error, "instantiating a graph");
}

void Graph::launch() {
  for (CapturedCall &call : calls_) call.checkAgain();
  const OnDevice here(context_->deviceOf(0));
  const DevicesInOrder order(*context_);
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
  if (isCapturing_) {
    const OnDevice here(context_->deviceOf(0));
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(context_->stream(0), &graph) == cudaSuccess) cudaGraphDestroy(graph);
    (void)cudaGetLastError();
  }
  if (exec_ == nullptr) return;
  cudaGraphExecDestroy(exec_);
}

}  // namespace fusco::cuda
