#include "cuda_graph.hpp"

namespace fusco_node {

CudaGraph::CudaGraph(const Napi::CallbackInfo &info) : Handle(info) {
  handle_.reset(Bound<fusco_cuda_capture_end>::invoke<0>(info));
}

}  // namespace fusco_node
