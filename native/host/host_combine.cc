#include <cstring>

#include "buffers.hpp"
#include "call_checks.hpp"
#include "host_exchange.hpp"
#include "plan_layout.h"

namespace fusco {

namespace {

// Moves the terms of a token, given in ascending k, into ascending node order and marks each node's last one.
// Insertion: a token has few terms, and most lie at few nodes.
void groupByNode(Term *terms, uint32_t *nodes, size_t count) {
  for (size_t i = 1; i < count; i++) {
    const Term term = terms[i];
    const uint32_t node = nodes[i];
    size_t at = i;
    for (; at > 0 && nodes[at - 1] > node; at--) {
      terms[at] = terms[at - 1];
      nodes[at] = nodes[at - 1];
    }
    terms[at] = term;
    nodes[at] = node;
  }
  for (size_t i = 0; i < count; i++) terms[i].closesNode = i + 1 == count || nodes[i + 1] != nodes[i];
}

// The rows of a token in the order of addition. Returns how many there are.
size_t gatherTerms(const fusco_plan &plan, const fusco_combine_call &call, uint32_t rank, uint32_t token,
                   Term *terms) {
  const uint64_t first = uint64_t{token} * plan.topk;
  const Place *places = plan.rank[rank].places.data() + first;
  uint32_t nodes[FUSCO_MAX_TOPK];
  size_t count = 0;
  for (uint32_t k = 0; k < plan.topk; k++) {
    const Place &place = places[k];
    if (place.row < 0) continue;
    nodes[count] = place.peer / plan.ranksPerNode;
    const float weight = call.weights == nullptr ? 0.0f : weightOf(call.weights, rank, first + k);
    terms[count++] = {rowOf(call.from, place.peer, place.row, call.row_bytes), weight, false};
  }
  if (plan.tree != Tree::none) groupByNode(terms, nodes, count);
  return count;
}

void combineTokens(const fusco_plan &plan, const fusco_combine_call &call, const TokenTask &task,
                   bool nonTemporal) {
  const Kernels &kernels = plan.context->kernels();
  const Arithmetic &arithmetic = kernels.of(call.dtype);
  const auto add = arithmetic.combine[static_cast<int>(plan.tree)][call.weights != nullptr];
  const uint64_t elements = call.row_bytes / elementBytes(call.dtype);
  Term terms[FUSCO_MAX_TOPK];
  for (uint32_t token = task.begin; token < task.end; token++) {
    const size_t count = gatherTerms(plan, call, task.rank, token, terms);
    add(rowOf(call.to, task.rank, token, call.row_bytes), terms, count, elements, nonTemporal);
  }
  kernels.fence();
}

}  // namespace

void combine(fusco_plan &plan, const fusco_combine_call &call, fusco_stats &stats) {
  checkCall(plan, call);
  const bool nonTemporal = plan.context->storesNonTemporal(plan.tokens * call.row_bytes);
  auto work = [&](uint32_t task) { combineTokens(plan, call, plan.tasks[task], nonTemporal); };
  plan.context->pool().each(static_cast<uint32_t>(plan.tasks.size()), work);
  countCombine(plan, call, stats);
}

void runWeightGradientTask(const fusco_plan &plan, const fusco_weight_gradient_call &call,
                           const TokenTask &task) {
  const auto dot = plan.context->kernels().of(call.dtype).dot;
  const uint64_t elements = call.row_bytes / elementBytes(call.dtype);
  const uint64_t end = uint64_t{task.end} * plan.topk;
  for (uint64_t entry = uint64_t{task.begin} * plan.topk; entry < end; entry++) {
    const Place &place = plan.rank[task.rank].places[entry];
    float gradient = 0.0f;
    if (place.row >= 0) {
      const uint8_t *upstream = rowOf(call.output_gradient, task.rank, entry / plan.topk, call.row_bytes);
      gradient = dot(upstream, rowOf(call.from, place.peer, place.row, call.row_bytes), elements);
    }
    std::memcpy(rowOf(call.to, task.rank, entry, weightBytes), &gradient, weightBytes);
  }
}

void weightGradient(fusco_plan &plan, const fusco_weight_gradient_call &call, fusco_stats &stats) {
  checkCall(plan, call);
  auto work = [&](uint32_t task) { runWeightGradientTask(plan, call, plan.tasks[task]); };
  plan.context->pool().each(static_cast<uint32_t>(plan.tasks.size()), work);
  countWeightGradient(plan, call, stats);
}

void combineGradient(fusco_plan &plan, const fusco_combine_gradient_call &call, fusco_stats &stats) {
  checkCall(plan, call);
  const CombineGradientParts parts(call);
  // Both parts of a task one after the other: the second finds the task's rows in the nearest cache.
  auto work = [&](uint32_t piece) {
    runDispatchPiece(plan, parts.dispatch, piece);
    if (piece < plan.tasks.size()) runWeightGradientTask(plan, parts.weightGradient, plan.tasks[piece]);
  };
  plan.context->pool().each(dispatchPieces(plan), work);
  countCombineGradient(plan, call, stats);
}

}  // namespace fusco
