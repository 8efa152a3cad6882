// The exchanges of a one-pass plan: all ranks are on one machine, each is a process, and kernels write into
// the others' memory. A call enqueues on the caller's stream and returns; it can be captured.
#pragma once

#include "nccl_plan.hpp"

namespace fusco::nccl {

// Each throws E_BUFFER for buffers that are less aligned than their rows.
void dispatchToPeers(Plan &plan, const fusco_nccl_call &id, const fusco_dispatch_call &call,
                     fusco_nccl_report &report);
void combineFromPeers(Plan &plan, const fusco_nccl_call &id, const fusco_combine_call &call,
                      fusco_nccl_report &report);
void weightGradientFromPeers(Plan &plan, const fusco_nccl_call &id, const fusco_weight_gradient_call &call,
                             fusco_nccl_report &report);
void combineGradientFromPeers(Plan &plan, const fusco_nccl_call &id, const fusco_combine_gradient_call &call,
                              fusco_nccl_report &report);

// Sets memory aside for exchanges of rows of `rowBytes` bytes; 0: none. Collective.
void reservePeerMemory(Plan &plan, const fusco_nccl_call &id, uint64_t rowBytes);

}  // namespace fusco::nccl
