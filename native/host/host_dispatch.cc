#include <cstring>
#include <type_traits>

#include "buffers.hpp"
#include "call_checks.hpp"
#include "host_exchange.hpp"
#include "plan_layout.h"

namespace fusco {

namespace {

// Below this size of a row, streaming stores write partial cache lines more often than whole ones.
constexpr uint64_t minNonTemporalRow = 256;

bool copiesNonTemporal(const Context &context, const fusco_plan &plan, const fusco_payload &payload) {
  return payload.row_bytes >= minNonTemporalRow && context.storesNonTemporal(plan.kept * payload.row_bytes);
}

// Each token's row is read once; while it is in the nearest cache it goes to all of its slots.
void copyTokens(const fusco_plan &plan, const TokenTask &task, const fusco_payload &payload) {
  const Context &context = *plan.context;
  const Kernels &kernels = context.kernels();
  const auto copy = copiesNonTemporal(context, plan, payload) ? kernels.copyRowNonTemporal : kernels.copyRow;
  const Place *place = plan.rank[task.rank].places.data() + uint64_t{task.begin} * plan.topk;
  uint8_t *rows[FUSCO_MAX_TOPK];
  for (uint32_t token = task.begin; token < task.end; token++) {
    size_t count = 0;
    for (uint32_t k = 0; k < plan.topk; k++, place++) {
      if (place->row >= 0) rows[count++] = rowOf(payload.to, place->peer, place->row, payload.row_bytes);
    }
    copy(rowOf(payload.from, task.rank, token, payload.row_bytes), rows, count, payload.row_bytes);
  }
}

// Calls work(entry, place) for each kept entry of the task.
template <class F>
void forKept(const fusco_plan &plan, const TokenTask &task, F work) {
  const uint64_t end = uint64_t{task.end} * plan.topk;
  const Place *places = plan.rank[task.rank].places.data();
  for (uint64_t entry = uint64_t{task.begin} * plan.topk; entry < end; entry++) {
    if (places[entry].row >= 0) work(entry, places[entry]);
  }
}

void scaleTokens(const fusco_plan &plan, const TokenTask &task, const fusco_payload &payload,
                 const fusco_buffer *scale) {
  const auto scaleRow = plan.context->kernels().of(payload.dtype).scale;
  const uint64_t elements = payload.row_bytes / elementBytes(payload.dtype);
  forKept(plan, task, [&](uint64_t entry, const Place &place) {
    const uint8_t *row = rowOf(payload.from, task.rank, entry / plan.topk, payload.row_bytes);
    scaleRow(rowOf(payload.to, place.peer, place.row, payload.row_bytes), row,
             weightOf(scale, task.rank, entry), elements);
  });
}

void copyEntries(const fusco_plan &plan, const TokenTask &task, const fusco_payload &payload) {
  const auto copyAll = [&](auto bytes) {
    forKept(plan, task, [&](uint64_t entry, const Place &place) {
      std::memcpy(rowOf(payload.to, place.peer, place.row, bytes),
                  rowOf(payload.from, task.rank, entry, bytes), bytes);
    });
  };
  if (payload.row_bytes != weightBytes) return copyAll(payload.row_bytes);
  // A constant size lets the compiler copy a weight with one load and one store.
  copyAll(std::integral_constant<uint64_t, weightBytes>{});
}

void writeOrigins(const fusco_plan &plan, const TokenTask &task, const fusco_buffer *origins) {
  forKept(plan, task, [&](uint64_t entry, const Place &place) {
    const int32_t origin[3] = {static_cast<int32_t>(task.rank), static_cast<int32_t>(entry / plan.topk),
                               static_cast<int32_t>(entry % plan.topk)};
    std::memcpy(rowOf(origins, place.peer, place.row, originBytes), origin, originBytes);
  });
}

// The direct stage: rows go from their token straight to their slots.
void runDirect(const fusco_plan &plan, const fusco_dispatch_call &call, const TokenTask &task) {
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    if (payload.per == FUSCO_PER_ENTRY) {
      copyEntries(plan, task, payload);
    } else if (call.scale != nullptr) {
      scaleTokens(plan, task, payload, call.scale);
    } else {
      copyTokens(plan, task, payload);
    }
  }
  if (call.origins != nullptr) writeOrigins(plan, task, call.origins);
  plan.context->kernels().fence();
}

void fillPadding(const fusco_plan &plan, const fusco_dispatch_call &call, uint32_t rank) {
  for (const RowRange &range : plan.rank[rank].padding) {
    for (uint32_t p = 0; p < call.payload_count; p++) {
      const fusco_payload &payload = call.payloads[p];
      std::memset(rowOf(payload.to, rank, range.first, payload.row_bytes), 0, range.rows * payload.row_bytes);
    }
    if (call.origins != nullptr) {
      std::memset(rowOf(call.origins, rank, range.first, originBytes), 0xff, range.rows * originBytes);
    }
  }
}

}  // namespace

uint32_t dispatchPieces(const fusco_plan &plan) {
  return static_cast<uint32_t>(plan.tasks.size()) + plan.ranks;
}

void runDispatchPiece(const fusco_plan &plan, const fusco_dispatch_call &call, uint32_t piece) {
  const auto tasks = static_cast<uint32_t>(plan.tasks.size());
  if (piece < tasks) {
    runDirect(plan, call, plan.tasks[piece]);
  } else {
    fillPadding(plan, call, piece - tasks);
  }
}

void dispatch(fusco_plan &plan, const fusco_dispatch_call &call, fusco_stats &stats) {
  checkCall(plan, call);
  auto work = [&](uint32_t piece) { runDispatchPiece(plan, call, piece); };
  plan.context->pool().each(dispatchPieces(plan), work);
  countDispatch(plan, call, stats);
}

}  // namespace fusco
