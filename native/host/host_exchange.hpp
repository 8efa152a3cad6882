// The exchanges of the host backend. Each checks its call, runs over the context's threads, and throws
// Failure before it has touched any buffer, or not at all.
#pragma once

#include "plan.hpp"

namespace fusco {

void dispatch(fusco_plan &plan, const fusco_dispatch_call &call, fusco_stats &stats);
void combine(fusco_plan &plan, const fusco_combine_call &call, fusco_stats &stats);
void weightGradient(fusco_plan &plan, const fusco_weight_gradient_call &call, fusco_stats &stats);

}  // namespace fusco
