// The C interface of planning on the device, one process per rank.

#include "call_guard.hpp"
#include "cuda_graph.hpp"
#include "ids_from.hpp"
#include "nccl_planner.hpp"

namespace {

using fusco::Failure;
using fusco::guarded;
using fusco::nccl::BufferedPlan;
using fusco::nccl::call;
using fusco::nccl::callFrom;
using fusco::nccl::checkGiven;
using fusco::nccl::groupOf;
using fusco::nccl::PlanCopy;
using fusco::nccl::Planner;

// The plan in a plan buffer of a handle. Throws E_OPTION.
BufferedPlan &bufferedOf(const fusco_nccl_plan &plan) {
  if (plan.buffered == nullptr) throw Failure(FUSCO_E_OPTION, "the plan has no plan buffer: it was uploaded");
  return *plan.buffered;
}

fusco_nccl_plan *newPlan(const std::shared_ptr<Planner> &planner, uint8_t *buffer, int64_t tokens,
                         std::unique_ptr<PlanCopy> copy = nullptr) {
  return new fusco_nccl_plan{nullptr,
                             std::make_shared<BufferedPlan>(planner, buffer, tokens, std::move(copy))};
}

}  // namespace

extern "C" {

fusco_status fusco_nccl_planner_create(fusco_nccl_group *group, const fusco_nccl_call *id,
                                       const fusco_plan_options *options,
                                       const fusco_cuda_plan_limits *limits, fusco_nccl_planner **planner,
                                       fusco_error *error) {
  return call(groupOf(group), planner != nullptr, error, [&] {
    *planner = new fusco_nccl_planner{std::make_shared<Planner>(
        group->shared, callFrom(id), fusco::structFrom(options, "fusco_plan_options"),
        fusco::structFrom(limits, "fusco_cuda_plan_limits"))};
  });
}

void fusco_nccl_planner_destroy(fusco_nccl_planner *planner) { delete planner; }

fusco_status fusco_nccl_plan_on_device(fusco_nccl_planner *planner, const fusco_nccl_call *id,
                                       const fusco_cuda_plan_call *plan_call, fusco_nccl_plan **plan,
                                       fusco_error *error) {
  return call(groupOf(planner), plan != nullptr, error, [&] {
    const auto from = fusco::structFrom(plan_call, "fusco_cuda_plan_call");
    if (from.buffers == nullptr) throw Failure(FUSCO_E_OPTION, "buffers is NULL");
    const fusco_ids ids = fusco::planning::idsFrom(from.ids, 1)[0];
    uint8_t *buffer = planner->shared->checkBuffer(from.buffers[0]);
    std::unique_ptr<PlanCopy> copy = planner->shared->plan(callFrom(id), ids, buffer);
    fusco::cuda::Graph *capturing = planner->shared->group().context().capturing;
    if (capturing != nullptr) capturing->keep(planner->shared);
    *plan = newPlan(planner->shared, buffer, ids.tokens, std::move(copy));
  });
}

fusco_status fusco_nccl_plan_attach(fusco_nccl_planner *planner, const fusco_buffer *buffer,
                                    fusco_nccl_plan **plan, fusco_error *error) {
  return call(groupOf(planner), buffer != nullptr && plan != nullptr, error,
              [&] { *plan = newPlan(planner->shared, planner->shared->checkBuffer(*buffer), -1); });
}

fusco_status fusco_nccl_plan_describe(const fusco_nccl_plan *plan, fusco_cuda_plan_view *view,
                                      fusco_error *error) {
  return guarded(error, [&] {
    checkGiven(plan != nullptr && view != nullptr);
    fusco::structTo(view, bufferedOf(*plan).view(), "fusco_cuda_plan_view");
  });
}

fusco_status fusco_nccl_plan_status(fusco_nccl_plan *plan, uint32_t *recv_rows, fusco_error *error) {
  return call(groupOf(plan), true, error, [&] {
    const uint32_t rows = bufferedOf(*plan).finished().recvRows;
    if (recv_rows != nullptr) *recv_rows = rows;
  });
}

fusco_status fusco_nccl_plan_shard(fusco_nccl_plan *plan, fusco_buffer *shard, fusco_error *error) {
  return call(groupOf(plan), shard != nullptr, error,
              [&] { shard->bytes = bufferedOf(*plan).packShard(*shard); });
}

}  // extern "C"
