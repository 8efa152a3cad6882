// The C interface of planning on the device: takes turns, turns failures into statuses, and nothing else.

#include "cuda_graph.hpp"
#include "cuda_turn.hpp"
#include "device_plan.hpp"
#include "device_planner.hpp"
#include "ids_from.hpp"
#include "plan_sizes.hpp"
#include "structs.hpp"

namespace {

using fusco::Failure;
using fusco::guarded;
using fusco::cuda::BufferedPlan;
using fusco::cuda::CudaContext;
using fusco::cuda::DevicePlanner;
using fusco::cuda::inTurn;

// The plan in plan buffers of a handle. Throws E_OPTION.
BufferedPlan &bufferedOf(const fusco_cuda_plan &plan) {
  if (plan.buffered == nullptr) throw Failure(FUSCO_E_OPTION, "the plan has no plan buffer: it was uploaded");
  return *plan.buffered;
}

fusco_cuda_plan *newPlan(std::shared_ptr<BufferedPlan> plan) {
  BufferedPlan *buffered = plan.get();
  return new fusco_cuda_plan{std::move(plan), nullptr, buffered};
}

}  // namespace

extern "C" {

fusco_status fusco_cuda_plan_buffer_bytes(const fusco_plan_options *options,
                                          const fusco_cuda_plan_limits *limits, uint64_t *bytes,
                                          fusco_error *error) {
  return guarded(error, [&] {
    if (bytes == nullptr) throw Failure(FUSCO_E_OPTION, "bytes is NULL");
    const auto spec = fusco::planning::makeSettledSpec(fusco::structFrom(options, "fusco_plan_options"));
    const auto sizes = fusco::cuda::planSizes(spec, fusco::structFrom(limits, "fusco_cuda_plan_limits"));
    *bytes = fusco::cuda::planBufferBytes(sizes);
  });
}

fusco_status fusco_cuda_planner_create(fusco_cuda_context *context, const fusco_plan_options *options,
                                       const fusco_cuda_plan_limits *limits, fusco_cuda_planner **planner,
                                       fusco_error *error) {
  return inTurn(context, planner != nullptr, error, [&](CudaContext &) {
    *planner = new fusco_cuda_planner{
        std::make_shared<DevicePlanner>(context->shared, fusco::structFrom(options, "fusco_plan_options"),
                                        fusco::structFrom(limits, "fusco_cuda_plan_limits"))};
  });
}

void fusco_cuda_planner_destroy(fusco_cuda_planner *planner) { delete planner; }

fusco_status fusco_cuda_plan_on_device(fusco_cuda_planner *planner, const fusco_cuda_plan_call *call,
                                       fusco_cuda_plan **plan, fusco_error *error) {
  return inTurn(planner, plan != nullptr, error, [&](CudaContext &context) {
    const auto from = fusco::structFrom(call, "fusco_cuda_plan_call");
    if (from.buffers == nullptr) throw Failure(FUSCO_E_OPTION, "buffers is NULL");
    const std::vector<fusco_ids> ids = fusco::planning::idsFrom(from.ids, context.ranks());
    std::vector<uint8_t *> buffers = planner->shared->checkBuffers(from.buffers);
    std::vector<uint32_t> tokens;
    for (const fusco_ids &own : ids) tokens.push_back(own.tokens);
    auto made = std::make_shared<BufferedPlan>(planner->shared, buffers, tokens);
    planner->shared->plan(ids, buffers);
    if (context.capturing != nullptr) context.capturing->keep(planner->shared);
    *plan = newPlan(std::move(made));
  });
}

fusco_status fusco_cuda_plan_attach(fusco_cuda_planner *planner, const fusco_buffer *buffers,
                                    fusco_cuda_plan **plan, fusco_error *error) {
  return inTurn(planner, buffers != nullptr && plan != nullptr, error, [&](CudaContext &) {
    const std::vector<uint32_t> unknown;
    *plan = newPlan(
        std::make_shared<BufferedPlan>(planner->shared, planner->shared->checkBuffers(buffers), unknown));
  });
}

fusco_status fusco_cuda_plan_describe(const fusco_cuda_plan *plan, uint32_t rank, fusco_cuda_plan_view *view,
                                      fusco_error *error) {
  return inTurn(plan, view != nullptr, error, [&](CudaContext &) {
    fusco::structTo(view, bufferedOf(*plan).view(rank), "fusco_cuda_plan_view");
  });
}

fusco_status fusco_cuda_plan_status(fusco_cuda_plan *plan, uint32_t rank, uint32_t *recv_rows,
                                    fusco_error *error) {
  return inTurn(plan, error, [&](CudaContext &) {
    const uint32_t rows = bufferedOf(*plan).finished(rank).recvRows;
    if (recv_rows != nullptr) *recv_rows = rows;
  });
}

fusco_status fusco_cuda_plan_shard(fusco_cuda_plan *plan, uint32_t rank, fusco_buffer *shard,
                                   fusco_error *error) {
  return inTurn(plan, shard != nullptr, error,
                [&](CudaContext &) { shard->bytes = bufferedOf(*plan).packShard(rank, *shard); });
}

}  // extern "C"
