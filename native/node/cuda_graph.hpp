// The JavaScript class CudaGraph: captured work of a context's streams.
#pragma once

#include "cuda_context.hpp"

namespace fusco_node {

class CudaGraph : public Handle<CudaGraph, Owned<fusco_cuda_graph, fusco_cuda_graph_destroy>> {
 public:
  static constexpr char name[] = "CudaGraph";
  static constexpr char label[] = "the graph";

  // (context): ends its capture.
  explicit CudaGraph(const Napi::CallbackInfo &info) : Handle(info) {
    handle_.reset(Bound<fusco_cuda_capture_end>::invoke<0>(info));
  }
};

template <>
struct ClassOf<fusco_cuda_graph> : std::type_identity<CudaGraph> {};

}  // namespace fusco_node
