// fusco_cuda_small_plans: which kernels make small plans.

#include "fusco_cuda_bench.h"
#include "guard.hpp"
#include "plan_launch.hpp"

fusco_status fusco_cuda_small_plans(uint32_t are_made, fusco_error *error) {
  return fusco::guarded(error, [&] { fusco::cuda::makeSmallPlans(are_made != 0); });
}
