// The C interface: turns failures into statuses, and nothing else.

#include <iterator>
#include <mutex>

#include "clock.hpp"
#include "fp8.hpp"
#include "gate.hpp"
#include "guard.hpp"
#include "host_exchange.hpp"
#include "structs.hpp"

namespace {

using fusco::Failure;
using fusco::guarded;

template <class Call>
fusco_status exchange(fusco_plan *plan, const Call *given, const char *name, fusco_stats *stats,
                      fusco_error *error, void (*run)(fusco_plan &, const Call &, fusco_stats &)) noexcept {
  return guarded(error, [&] {
    if (plan == nullptr) throw Failure(FUSCO_E_OPTION, "the plan is NULL");
    const fusco::CallFrom<Call> from(given, name);
    const std::lock_guard<std::mutex> turn(plan->context->mutex);
    fusco_stats measured{};
    measured.started = fusco::steadyNs();
    run(*plan, from.call, measured);
    measured.nanoseconds = fusco::steadyNs() - measured.started;
    if (stats != nullptr) *stats = measured;
  });
}

template <class Call>
fusco_status rowWork(fusco_context *context, const Call *given, const char *name, fusco_error *error,
                     void (*run)(fusco::Context &, const Call &)) noexcept {
  return guarded(error, [&] {
    if (context == nullptr) throw Failure(FUSCO_E_OPTION, "the context is NULL");
    const fusco::CallFrom<Call> from(given, name);
    const std::lock_guard<std::mutex> turn(context->shared->mutex);
    run(*context->shared, from.call);
  });
}

}  // namespace

extern "C" {

uint32_t fusco_version(void) {
  return FUSCO_VERSION_MAJOR << 16 | FUSCO_VERSION_MINOR << 8 | FUSCO_VERSION_PATCH;
}

const char *fusco_status_name(fusco_status status) {
  static constexpr const char *names[] = {"OK",
                                          "E_OPTION",
                                          "E_RANKS",
                                          "E_LIMIT",
                                          "E_SHARD_LAYOUT",
                                          "E_SHARD_HEAD",
                                          "E_SEGMENT_BOUNDS",
                                          "E_ENTRY",
                                          "E_BUFFER",
                                          "E_DTYPE",
                                          "E_BACKEND",
                                          "E_MEMORY",
                                          "E_CLOSED",
                                          "E_INTERNAL",
                                          "E_PEER_TIMEOUT",
                                          "E_PEER_MISMATCH",
                                          "E_PLACEMENT",
                                          "E_ROUTING_SHAPE",
                                          "E_ROUTING_DTYPE",
                                          "E_ROUTING_ID",
                                          "E_ROUTING_DUPLICATE",
                                          "E_FACTS",
                                          "E_FILE_NOT_FOUND",
                                          "E_FILE_READ",
                                          "E_FILE_WRITE",
                                          "E_PLAN_MAGIC",
                                          "E_PLAN_VERSION",
                                          "E_PLAN_TRUNCATED",
                                          "E_PLAN_CANONICAL",
                                          "E_PLAN_HEADER",
                                          "E_PLAN_DIGEST",
                                          "E_RUN_TABLE",
                                          "E_STREAM",
                                          "E_SLICE",
                                          "E_FORWARD",
                                          "E_MAX_ROWS"};
  static_assert(std::size(names) == FUSCO_E_MAX_ROWS + 1, "a name for each status");
  const auto index = static_cast<size_t>(status);
  return index < std::size(names) ? names[index] : names[FUSCO_E_INTERNAL];
}

fusco_status fusco_context_create(const fusco_context_options *options, fusco_context **context,
                                  fusco_error *error) {
  return guarded(error, [&] {
    if (context == nullptr) throw Failure(FUSCO_E_OPTION, "context is NULL");
    auto handle = std::make_unique<fusco_context>();
    handle->shared = std::make_shared<fusco::Context>(
        options == nullptr ? fusco_context_options{} : fusco::structFrom(options, "fusco_context_options"));
    *context = handle.release();
  });
}

void fusco_context_destroy(fusco_context *context) { delete context; }

uint32_t fusco_context_threads(const fusco_context *context) {
  return context == nullptr ? 0 : context->shared->pool().threads();
}

const char *fusco_context_kernels(const fusco_context *context) {
  return context == nullptr ? "" : context->shared->kernels().name;
}

fusco_status fusco_plan_create(fusco_context *context, const fusco_plan_desc *desc, fusco_plan **plan,
                               fusco_error *error) {
  return guarded(error, [&] {
    if (context == nullptr || plan == nullptr) {
      throw Failure(FUSCO_E_OPTION, "the context or the plan is NULL");
    }
    *plan = fusco::checkPlan(context->shared, fusco::structFrom(desc, "fusco_plan_desc")).plan.release();
  });
}

void fusco_plan_destroy(fusco_plan *plan) { delete plan; }

uint64_t fusco_plan_bytes(const fusco_plan *plan) {
  if (plan == nullptr) return 0;
  uint64_t bytes = sizeof *plan + plan->tasks.capacity() * sizeof(fusco::TokenTask);
  for (const fusco::RankPlan &part : plan->rank) {
    bytes += sizeof part + part.places.capacity() * sizeof(fusco::Place);
    bytes += part.padding.capacity() * sizeof(fusco::RowRange);
  }
  return bytes;
}

uint32_t fusco_plan_ranks(const fusco_plan *plan) { return plan == nullptr ? 0 : plan->ranks; }
uint32_t fusco_plan_topk(const fusco_plan *plan) { return plan == nullptr ? 0 : plan->topk; }

uint32_t fusco_plan_tokens(const fusco_plan *plan, uint32_t rank) {
  return plan == nullptr || rank >= plan->ranks ? 0 : plan->rank[rank].tokens;
}

uint32_t fusco_plan_recv_rows(const fusco_plan *plan, uint32_t rank) {
  return plan == nullptr || rank >= plan->ranks ? 0 : plan->rank[rank].recvRows;
}

fusco_status fusco_dispatch(fusco_plan *plan, const fusco_dispatch_call *call, fusco_stats *stats,
                            fusco_error *error) {
  return exchange(plan, call, "fusco_dispatch_call", stats, error, fusco::dispatch);
}

fusco_status fusco_combine(fusco_plan *plan, const fusco_combine_call *call, fusco_stats *stats,
                           fusco_error *error) {
  return exchange(plan, call, "fusco_combine_call", stats, error, fusco::combine);
}

fusco_status fusco_weight_gradient(fusco_plan *plan, const fusco_weight_gradient_call *call,
                                   fusco_stats *stats, fusco_error *error) {
  return exchange(plan, call, "fusco_weight_gradient_call", stats, error, fusco::weightGradient);
}

fusco_status fusco_combine_gradient(fusco_plan *plan, const fusco_combine_gradient_call *call,
                                    fusco_stats *stats, fusco_error *error) {
  return exchange(plan, call, "fusco_combine_gradient_call", stats, error, fusco::combineGradient);
}

fusco_status fusco_fp8_quantize(fusco_context *context, const fusco_fp8_call *call, fusco_error *error) {
  return rowWork(context, call, "fusco_fp8_call", error, fusco::quantize);
}

fusco_status fusco_fp8_dequantize(fusco_context *context, const fusco_fp8_call *call, fusco_error *error) {
  return rowWork(context, call, "fusco_fp8_call", error, fusco::dequantize);
}

fusco_status fusco_gate(fusco_context *context, const fusco_gate_call *call, fusco_error *error) {
  return rowWork(context, call, "fusco_gate_call", error, fusco::gate);
}

fusco_status fusco_gate_backward(fusco_context *context, const fusco_gate_backward_call *call,
                                 fusco_error *error) {
  return rowWork(context, call, "fusco_gate_backward_call", error, fusco::gateBackward);
}

}  // extern "C"
