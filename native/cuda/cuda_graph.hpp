// A captured piece of work, with what is needed to check it again when a plan has changed.
#pragma once

#include <deque>
#include <initializer_list>
#include <memory>
#include <variant>
#include <vector>

#include "device_plan.hpp"

namespace fusco::cuda {

using AnyCall = std::variant<fusco_dispatch_call, fusco_combine_call, fusco_weight_gradient_call,
                             fusco_combine_gradient_call>;

// A copy of a call, its buffers included.
struct CapturedCall {
  std::shared_ptr<DevicePlan> device;
  uint64_t generation;
  uint32_t topk;
  Tree tree;
  std::deque<std::vector<fusco_buffer>> buffers;
  std::vector<fusco_payload> payloads;
  AnyCall call;

  OnePassNeed capacity;  // of the signals, as captured

  CapturedCall(const std::shared_ptr<DevicePlan> &device, const AnyCall &call);
  // Throws if the plan that was uploaded since does not suit what was captured.
  void checkAgain();

 private:
  // Point to copies of the buffers; null stays null.
  void keep(fusco_dispatch_call &own);
  void keep(fusco_combine_call &own);
  void keep(fusco_weight_gradient_call &own);
  void keep(fusco_combine_gradient_call &own);
  void keep(std::initializer_list<const fusco_buffer **> lists);
};

class Graph {
 public:
  ~Graph();

  void add(const std::shared_ptr<DevicePlan> &device, const AnyCall &call) {
    calls_.emplace_back(device, call);
  }

  // What captured kernels read stays as long as the graph.
  void keep(std::shared_ptr<const void> memory) { kept_.push_back(std::move(memory)); }

  static std::unique_ptr<Graph> begin(const std::shared_ptr<CudaContext> &context);
  void end();
  void launch();

 private:
  explicit Graph(std::shared_ptr<CudaContext> context) : context_(std::move(context)) {}

  std::shared_ptr<CudaContext> context_;
  std::deque<CapturedCall> calls_;
  std::vector<std::shared_ptr<const void>> kept_;
  std::vector<Event> joins_;  // [ranks + 1]
  bool isCapturing_ = false;
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace fusco::cuda

struct fusco_cuda_graph {
  std::unique_ptr<fusco::cuda::Graph> graph;
  std::shared_ptr<fusco::cuda::CudaContext> context;
};
