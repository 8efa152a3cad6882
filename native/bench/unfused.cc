// The unfused pipeline. A source rank packs its rows by destination rank, one block per peer is copied, and
// each peer permutes the rows that arrived into expert order. Combine goes the same way back and adds on the
// token's rank. Every row crosses memory three times; the fused exchange moves it once.

#include <algorithm>
#include <memory>

#include "buffers.hpp"
#include "call_checks.hpp"
#include "fusco_bench.h"
#include "guard.hpp"
#include "measure.hpp"
#include "plan_layout.h"
#include "unfused_tables.hpp"

namespace {

using namespace fusco;

constexpr uint64_t taskRows = 128;
constexpr uint64_t chunkBytes = 1 << 20;

// Appends parts of at most `step` rows.
void appendParts(const UnfusedBlock &block, uint64_t step, std::vector<UnfusedBlock> &parts) {
  for (uint64_t at = 0; at < block.rows; at += step) {
    parts.push_back({block.sendRow + at, block.recvRow + at, std::min(step, block.rows - at)});
  }
}

}  // namespace

// The three passes of each direction, with the copy routine that the fused exchange would choose.
struct fusco_unfused {
  fusco_unfused(fusco_plan &ofPlan, uint64_t bytes) : plan(ofPlan), rowBytes(bytes), tables(ofPlan) {
    const uint64_t rows = tables.slot.size();
    const uint64_t step = std::max<uint64_t>(1, chunkBytes / rowBytes);
    for (const UnfusedBlock &block : tables.blocks) appendParts(block, step, copies);
    appendParts({0, 0, rows}, taskRows, permuted);
    packed = std::make_unique<uint8_t[]>(rows * rowBytes);
    arrived = std::make_unique<uint8_t[]>(rows * rowBytes);
  }

  void dispatch(const fusco_dispatch_call &call, fusco_stats &stats) {
    checkCall(plan, call);
    if (call.payload_count != 1) throw Failure(FUSCO_E_OPTION, "the pipeline takes one payload");
    checkSize(call.payloads[0].row_bytes);
    pack(call.payloads[0].from);
    exchange(false);
    permute(call.payloads[0].to, false);
    countDispatch(plan, call, stats);
  }

  void combine(const fusco_combine_call &call, fusco_stats &stats) {
    checkCall(plan, call);
    checkSize(call.row_bytes);
    permute(call.from, true);
    exchange(true);
    reduce(call);
    countCombine(plan, call, stats);
  }

  void checkSize(uint64_t given) const {
    if (given != rowBytes) throw Failure(FUSCO_E_OPTION, "rows of another size");
  }

  void pack(const fusco_buffer *from) {
    eachToken([&](uint32_t rank, uint32_t token) {
      uint8_t *places[FUSCO_MAX_TOPK];
      size_t count = 0;
      eachPacked(rank, token, [&](uint64_t, uint8_t *row) { places[count++] = row; });
      copy(rowOf(from, rank, token, rowBytes), places, count, rowBytes);
    });
  }

  void exchange(bool back) {
    each(copies, [&](const UnfusedBlock &block) {
      uint8_t *sent = packed.get() + block.sendRow * rowBytes;
      uint8_t *received = arrived.get() + block.recvRow * rowBytes;
      uint8_t *place = back ? sent : received;
      copy(back ? received : sent, &place, 1, block.rows * rowBytes);
    });
  }

  // Between arrival order and expert order.
  void permute(const fusco_buffer *received, bool back) {
    each(permuted, [&](const UnfusedBlock &part) {
      for (uint64_t row = part.recvRow; row < part.recvRow + part.rows; row++) {
        const Place at = tables.slot[row];
        uint8_t *inOrder = arrived.get() + row * rowBytes;
        uint8_t *slot = rowOf(received, at.peer, at.row, rowBytes);
        uint8_t *place = back ? inOrder : slot;
        copy(back ? slot : inOrder, &place, 1, rowBytes);
      }
    });
  }

  void reduce(const fusco_combine_call &call) {
    const Arithmetic &arithmetic = kernels.of(call.dtype);
    const auto add = arithmetic.combine[static_cast<int>(Tree::none)][call.weights != nullptr];
    const uint64_t elements = rowBytes / elementBytes(call.dtype);
    const bool nonTemporal = plan.context->storesNonTemporal(plan.tokens * rowBytes);
    eachToken([&](uint32_t rank, uint32_t token) {
      Term terms[FUSCO_MAX_TOPK];
      size_t count = 0;
      eachPacked(rank, token, [&](uint64_t entry, const uint8_t *row) {
        terms[count++] = {row, call.weights == nullptr ? 0.0f : weightOf(call.weights, rank, entry), false};
      });
      add(rowOf(call.to, rank, token, rowBytes), terms, count, elements, nonTemporal);
    });
  }

  template <class Task, class F>
  void each(const std::vector<Task> &tasks, F work) {
    auto numbered = [&](uint32_t task) {
      work(tasks[task]);
      kernels.fence();
    };
    plan.context->pool().each(static_cast<uint32_t>(tasks.size()), numbered);
  }

  template <class F>
  void eachToken(F work) {
    each(plan.tasks, [&](const TokenTask &task) {
      for (uint32_t token = task.begin; token < task.end; token++) work(task.rank, token);
    });
  }

  // Calls work(entry, packed row) for each kept entry of a token.
  template <class F>
  void eachPacked(uint32_t rank, uint32_t token, F work) {
    const Place *packedAt = tables.packedAt.data() + tables.firstEntry[rank];
    for (uint64_t entry = uint64_t{token} * plan.topk; entry < (token + uint64_t{1}) * plan.topk; entry++) {
      if (packedAt[entry].row < 0) continue;
      work(entry, packed.get() + static_cast<uint64_t>(packedAt[entry].row) * rowBytes);
    }
  }

  void copy(const uint8_t *row, uint8_t *const *places, size_t count, size_t bytes) const {
    const bool nonTemporal = plan.context->storesNonTemporal(plan.kept * rowBytes);
    (nonTemporal ? kernels.copyRowNonTemporal : kernels.copyRow)(row, places, count, bytes);
  }

  fusco_plan &plan;
  const uint64_t rowBytes;
  const Kernels &kernels = plan.context->kernels();
  UnfusedTables tables;
  std::vector<UnfusedBlock> copies;    // the blocks in parts, one for each task
  std::vector<UnfusedBlock> permuted;  // arrived rows of each task
  std::unique_ptr<uint8_t[]> packed;   // [rows, rowBytes]
  std::unique_ptr<uint8_t[]> arrived;  // [rows, rowBytes]
};

namespace {

template <class Call>
fusco_status timed(fusco_unfused *unfused, const Call *call, fusco_stats *stats, fusco_error *error,
                   void (fusco_unfused::*run)(const Call &, fusco_stats &)) {
  return guarded(error, [&] {
    if (unfused == nullptr || call == nullptr)
      throw Failure(FUSCO_E_OPTION, "the handle or the call is NULL");
    const std::lock_guard<std::mutex> turn(unfused->plan.context->mutex);
    fusco_stats measured{};
    measured.nanoseconds = nanosecondsOf([&] { (unfused->*run)(*call, measured); });
    if (stats != nullptr) *stats = measured;
  });
}

}  // namespace

extern "C" {

fusco_status fusco_unfused_create(fusco_plan *plan, uint64_t row_bytes, fusco_unfused **unfused,
                                  fusco_error *error) {
  return guarded(error, [&] {
    if (plan == nullptr || unfused == nullptr)
      throw Failure(FUSCO_E_OPTION, "the plan or the handle is NULL");
    checkRowBytes(row_bytes);
    *unfused = new fusco_unfused(*plan, row_bytes);
  });
}

void fusco_unfused_destroy(fusco_unfused *unfused) { delete unfused; }

fusco_status fusco_unfused_dispatch(fusco_unfused *unfused, const fusco_dispatch_call *call,
                                    fusco_stats *stats, fusco_error *error) {
  return timed(unfused, call, stats, error, &fusco_unfused::dispatch);
}

fusco_status fusco_unfused_combine(fusco_unfused *unfused, const fusco_combine_call *call, fusco_stats *stats,
                                   fusco_error *error) {
  return timed(unfused, call, stats, error, &fusco_unfused::combine);
}

}  // extern "C"
