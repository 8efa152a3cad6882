// fusco_cuda_planner_fuse: which kernels make small plans.

#include "cuda_turn.hpp"
#include "fusco_cuda_bench.h"

fusco_status fusco_cuda_planner_fuse(fusco_cuda_planner *planner, uint32_t is_fused, fusco_error *error) {
  return fusco::cuda::inTurn(planner, error,
                             [&](fusco::cuda::CudaContext &) { planner->shared->setFused(is_fused != 0); });
}
