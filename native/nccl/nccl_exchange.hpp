// The exchanges of one rank. Each checks its call before anything is enqueued, and returns when the last row
// is in place.
#pragma once

#include "nccl_plan.hpp"

namespace fusco::nccl {

void dispatch(Plan &plan, const fusco_nccl_call &id, const fusco_dispatch_call &call,
              fusco_nccl_report &report, const fusco_nccl_peers *peers);
void combine(Plan &plan, const fusco_nccl_call &id, const fusco_combine_call &call, fusco_nccl_report &report,
             const fusco_nccl_peers *peers);
void weightGradient(Plan &plan, const fusco_nccl_call &id, const fusco_weight_gradient_call &call,
                    fusco_nccl_report &report, const fusco_nccl_peers *peers);
void combineGradient(Plan &plan, const fusco_nccl_call &id, const fusco_combine_gradient_call &call,
                     fusco_nccl_report &report, const fusco_nccl_peers *peers);

}  // namespace fusco::nccl
