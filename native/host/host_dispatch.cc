#include <cstdio>
#include <cstring>

#include "buffers.hpp"
#include "failure.hpp"
#include "host_exchange.hpp"
#include "plan_layout.h"

namespace fusco {

namespace {

// Below this size of a row, streaming stores write partial cache lines more often than whole ones.
constexpr uint64_t minStreamedRow = 256;

bool streamsRow(const Context &context, const fusco_plan &plan, const fusco_payload &payload) {
  return payload.row_bytes >= minStreamedRow && context.streams(plan.kept * payload.row_bytes);
}

// Each token's row is read once; while it is in the nearest cache it goes to all of its slots.
void copyTokens(const fusco_plan &plan, const TokenTask &task, const fusco_payload &payload) {
  const Context &context = *plan.context;
  const Kernels &kernels = context.kernels();
  const auto copy = streamsRow(context, plan, payload) ? kernels.streamRow : kernels.copyRow;
  const Target *target = plan.rank[task.rank].targets.data() + uint64_t{task.begin} * plan.topk;
  uint8_t *places[FUSCO_MAX_TOPK];
  for (uint32_t token = task.begin; token < task.end; token++) {
    size_t count = 0;
    for (uint32_t k = 0; k < plan.topk; k++, target++) {
      if (target->row >= 0) places[count++] = rowOf(payload.to, target->peer, target->row, payload.row_bytes);
    }
    copy(rowOf(payload.from, task.rank, token, payload.row_bytes), places, count, payload.row_bytes);
  }
}

void scaleTokens(const fusco_plan &plan, const TokenTask &task, const fusco_payload &payload,
                 const fusco_buffer *scale) {
  const auto scaleRow = plan.context->kernels().of(payload.dtype).scale;
  const uint64_t elements = payload.row_bytes / elementBytes(payload.dtype);
  for (uint32_t token = task.begin; token < task.end; token++) {
    const uint8_t *row = rowOf(payload.from, task.rank, token, payload.row_bytes);
    for (uint32_t k = 0; k < plan.topk; k++) {
      const uint64_t entry = uint64_t{token} * plan.topk + k;
      const Target &target = plan.rank[task.rank].targets[entry];
      if (target.row < 0) continue;
      float weight;
      std::memcpy(&weight, rowOf(scale, task.rank, entry, weightBytes), weightBytes);
      scaleRow(rowOf(payload.to, target.peer, target.row, payload.row_bytes), row, weight, elements);
    }
  }
}

// Calls put(entry, target) for each kept entry of the task.
template <class F>
void forKept(const fusco_plan &plan, const TokenTask &task, F put) {
  const uint64_t end = uint64_t{task.end} * plan.topk;
  const Target *targets = plan.rank[task.rank].targets.data();
  for (uint64_t entry = uint64_t{task.begin} * plan.topk; entry < end; entry++) {
    if (targets[entry].row >= 0) put(entry, targets[entry]);
  }
}

void copyEntries(const fusco_plan &plan, const TokenTask &task, const fusco_payload &payload) {
  const uint64_t bytes = payload.row_bytes;
  if (bytes == weightBytes) {
    // A constant size lets the compiler copy a weight with one load and one store.
    forKept(plan, task, [&](uint64_t entry, const Target &target) {
      std::memcpy(rowOf(payload.to, target.peer, target.row, weightBytes),
                  rowOf(payload.from, task.rank, entry, weightBytes), weightBytes);
    });
    return;
  }
  forKept(plan, task, [&](uint64_t entry, const Target &target) {
    std::memcpy(rowOf(payload.to, target.peer, target.row, bytes),
                rowOf(payload.from, task.rank, entry, bytes), bytes);
  });
}

void writeOrigins(const fusco_plan &plan, const TokenTask &task, const fusco_buffer *origins) {
  forKept(plan, task, [&](uint64_t entry, const Target &target) {
    const int32_t origin[3] = {static_cast<int32_t>(task.rank), static_cast<int32_t>(entry / plan.topk),
                               static_cast<int32_t>(entry % plan.topk)};
    std::memcpy(rowOf(origins, target.peer, target.row, originBytes), origin, originBytes);
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

void checkDispatchCall(const fusco_plan &plan, const fusco_dispatch_call &call) {
  BufferCheck buffers(plan);
  if (call.payload_count > 0 && call.payloads == nullptr) {
    throw Failure(FUSCO_E_OPTION, "%u payloads, but none were given", call.payload_count);
  }
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    char from[28];
    char to[28];
    std::snprintf(from, sizeof from, "payload %u: from", p);
    std::snprintf(to, sizeof to, "payload %u: to", p);
    checkRowBytes(payload.row_bytes);
    if (payload.per == FUSCO_PER_TOKEN) {
      if (call.scale != nullptr) checkElements(payload.dtype, payload.row_bytes);
      buffers.tokens(from, payload.from, payload.row_bytes, false);
    } else if (payload.per == FUSCO_PER_ENTRY) {
      buffers.entries(from, payload.from, payload.row_bytes, false);
    } else {
      throw Failure(FUSCO_E_OPTION, "payload %u: per is %d; it must be 0 or 1", p,
                    static_cast<int>(payload.per));
    }
    buffers.received(to, payload.to, payload.row_bytes, true);
  }
  if (call.origins != nullptr) buffers.received("origins", call.origins, originBytes, true);
  if (call.scale != nullptr) buffers.entries("scale", call.scale, weightBytes, false);
  buffers.refuseOverlap();
}

void dispatch(fusco_plan &plan, const fusco_dispatch_call &call, fusco_stats &stats) {
  checkDispatchCall(plan, call);
  const auto tasks = static_cast<uint32_t>(plan.tasks.size());
  auto work = [&](uint32_t task) {
    if (task < tasks) {
      runDirect(plan, call, plan.tasks[task]);
    } else {
      fillPadding(plan, call, task - tasks);
    }
  };
  plan.context->pool().each(tasks + plan.ranks, work);
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    stats.bytes_read += (payload.per == FUSCO_PER_ENTRY ? plan.kept : plan.tokens) * payload.row_bytes;
    stats.bytes_written += plan.kept * payload.row_bytes;
  }
  stats.rows = plan.kept;
}

}  // namespace fusco
