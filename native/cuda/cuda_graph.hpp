// A captured piece of work, with what is needed to check it again when a plan has changed.
#pragma once

#include <deque>

#include "device_plan.hpp"

namespace fusco::cuda {

// A copy of a call, its buffers included.
struct CapturedCall {
  std::shared_ptr<DevicePlan> device;
  uint64_t generation;
  uint32_t topk;
  Tree tree;
  std::deque<std::vector<fusco_buffer>> buffers;
  std::vector<fusco_payload> payloads;
  fusco_dispatch_call dispatch{};
  fusco_combine_call combine{};
  fusco_weight_gradient_call gradient{};
  enum class Kind { dispatch, forwarded, combine, gradient } kind;

  OnePassNeed capacity;  // of the signals, as captured

  CapturedCall(const std::shared_ptr<DevicePlan> &device, Kind kind);
  const fusco_buffer *keep(const fusco_buffer *given);
  // Throws if the plan that was uploaded since does not suit what was captured.
  void checkAgain();
};

class Graph {
 public:
  ~Graph();

  void add(const std::shared_ptr<DevicePlan> &device, const fusco_dispatch_call &call, bool forwarded);
  void add(const std::shared_ptr<DevicePlan> &device, const fusco_combine_call &call);
  void add(const std::shared_ptr<DevicePlan> &device, const fusco_weight_gradient_call &call);

  static std::unique_ptr<Graph> begin(const std::shared_ptr<CudaContext> &context);
  void end();
  void launch();

 private:
  explicit Graph(std::shared_ptr<CudaContext> context) : context_(std::move(context)) {}

  std::shared_ptr<CudaContext> context_;
  std::deque<CapturedCall> calls_;
  std::vector<Event> joins_;  // [ranks + 1]
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace fusco::cuda

struct fusco_cuda_graph {
  std::unique_ptr<fusco::cuda::Graph> graph;
  std::shared_ptr<fusco::cuda::CudaContext> context;
};
