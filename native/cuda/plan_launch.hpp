// Host side of the kernels that plan on the device. A call enqueues for all ranks of one device and returns
// CUDA's verdict. Between the parts, the devices of a context wait for one another: a part reads what all
// ranks wrote in the part before.
#pragma once

#include "one_pass.hpp"
#include "plan_params.hpp"

namespace fusco::cuda {

// The parts of planning, between which the ranks of other devices are waited for.
enum PlanPart : uint32_t { planCounts = 1, planSlots = 2, planForward = 4 };

// Enqueues the given parts of planning, a kernel for each pass over entries or instances:
//
//   planCounts   ids to targets; each rank's counts go to all ranks
//   planSlots    blocks, runs, slots, the send order, and what exchanges read; in hierarchical plans each
//                rank's rows per node go to all ranks
//   planForward  of hierarchical plans: rail groups, landing rows and forwarding lists; between processes:
//                what the others have told of their tokens
//
// `signals`: where every rank is a process, of a call in which all parts are made; kernels then wait for the
// other processes between the parts. Else null.
// All parts of a small plan are made by one kernel, of one block for each rank, if the device has all ranks.
cudaError_t launchPlan(const PlanParams &params, uint32_t parts, const OnePassCommon *signals,
                       cudaStream_t stream);

// Whether one kernel makes this plan, and that kernel.
bool isSmallPlan(const PlanParams &params);
cudaError_t launchSmallPlan(const PlanParams &params, cudaStream_t stream);
// Whether there are small plans, for all planners of this process; else they are made as others are. For
// tests and benches; at first there are.
void makeSmallPlans(bool areMade);

}  // namespace fusco::cuda
