// The exchanges of the host backend. Each checks its call, runs over the context's threads, and throws
// Failure before it has touched any buffer, or not at all.
#pragma once

#include "plan.hpp"

namespace fusco {

void dispatch(fusco_plan &plan, const fusco_dispatch_call &call, fusco_stats &stats);
void combine(fusco_plan &plan, const fusco_combine_call &call, fusco_stats &stats);
void weightGradient(fusco_plan &plan, const fusco_weight_gradient_call &call, fusco_stats &stats);
void combineGradient(fusco_plan &plan, const fusco_combine_gradient_call &call, fusco_stats &stats);

// Pieces of checked calls, which any threads may run in any order. Of a dispatch there are
// dispatchPieces(plan): the tasks of the plan, then the padding of each rank. Of a weight gradient there is
// one for each task.
uint32_t dispatchPieces(const fusco_plan &plan);
void runDispatchPiece(const fusco_plan &plan, const fusco_dispatch_call &call, uint32_t piece);
void runWeightGradientTask(const fusco_plan &plan, const fusco_weight_gradient_call &call,
                           const TokenTask &task);

}  // namespace fusco
