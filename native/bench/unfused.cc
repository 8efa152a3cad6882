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

struct fusco_unfused {
  fusco_plan &plan;
  uint64_t rowBytes;
  fusco::UnfusedTables tables;
  std::vector<fusco::UnfusedBlock> copies;    // the blocks in parts, one for each task
  std::vector<fusco::UnfusedBlock> permuted;  // arrived rows of each task
  std::unique_ptr<uint8_t[]> packed;          // [rows, rowBytes]
  std::unique_ptr<uint8_t[]> arrived;         // [rows, rowBytes]
};

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

std::unique_ptr<fusco_unfused> makeUnfused(fusco_plan &plan, uint64_t rowBytes) {
  std::unique_ptr<fusco_unfused> made(
      new fusco_unfused{plan, rowBytes, UnfusedTables(plan), {}, {}, nullptr, nullptr});
  const uint64_t rows = made->tables.slot.size();
  const uint64_t step = std::max<uint64_t>(1, chunkBytes / rowBytes);
  for (const UnfusedBlock &block : made->tables.blocks) appendParts(block, step, made->copies);
  appendParts({0, 0, rows}, taskRows, made->permuted);
  made->packed = std::make_unique<uint8_t[]>(rows * rowBytes);
  made->arrived = std::make_unique<uint8_t[]>(rows * rowBytes);
  return made;
}

// The three passes of one direction, with the copy routine that the fused exchange would choose.
class Pipeline {
 public:
  explicit Pipeline(fusco_unfused &unfused)
      : unfused_(unfused),
        plan_(unfused.plan),
        rowBytes_(unfused.rowBytes),
        kernels_(plan_.context->kernels()),
        copy_(plan_.context->storesNonTemporal(plan_.kept * rowBytes_) ? kernels_.copyRowNonTemporal
                                                                       : kernels_.copyRow) {}

  void pack(const fusco_buffer *from) {
    eachToken([&](uint32_t rank, uint32_t token) {
      uint8_t *places[FUSCO_MAX_TOPK];
      size_t count = 0;
      eachPacked(rank, token, [&](uint64_t, uint8_t *row) { places[count++] = row; });
      copy_(rowOf(from, rank, token, rowBytes_), places, count, rowBytes_);
    });
  }

  void exchange(bool back) {
    each(unfused_.copies, [&](const UnfusedBlock &block) {
      uint8_t *sent = unfused_.packed.get() + block.sendRow * rowBytes_;
      uint8_t *arrived = unfused_.arrived.get() + block.recvRow * rowBytes_;
      uint8_t *place = back ? sent : arrived;
      copy_(back ? arrived : sent, &place, 1, block.rows * rowBytes_);
    });
  }

  // Between arrival order and expert order.
  void permute(const fusco_buffer *received, bool back) {
    each(unfused_.permuted, [&](const UnfusedBlock &part) {
      for (uint64_t row = part.recvRow; row < part.recvRow + part.rows; row++) {
        const Place at = unfused_.tables.slot[row];
        uint8_t *arrived = unfused_.arrived.get() + row * rowBytes_;
        uint8_t *slot = rowOf(received, at.peer, at.row, rowBytes_);
        uint8_t *place = back ? arrived : slot;
        copy_(back ? slot : arrived, &place, 1, rowBytes_);
      }
    });
  }

  void reduce(const fusco_combine_call &call) {
    const Arithmetic &arithmetic = kernels_.of(call.dtype);
    const auto add = arithmetic.combine[static_cast<int>(Tree::none)][call.weights != nullptr];
    const uint64_t elements = rowBytes_ / elementBytes(call.dtype);
    const bool nonTemporal = plan_.context->storesNonTemporal(plan_.tokens * rowBytes_);
    eachToken([&](uint32_t rank, uint32_t token) {
      Term terms[FUSCO_MAX_TOPK];
      size_t count = 0;
      eachPacked(rank, token, [&](uint64_t entry, const uint8_t *row) {
        terms[count++] = {row, call.weights == nullptr ? 0.0f : weightOf(call.weights, rank, entry), false};
      });
      add(rowOf(call.to, rank, token, rowBytes_), terms, count, elements, nonTemporal);
    });
  }

 private:
  template <class Task, class F>
  void each(const std::vector<Task> &tasks, F work) {
    auto numbered = [&](uint32_t task) {
      work(tasks[task]);
      kernels_.fence();
    };
    plan_.context->pool().each(static_cast<uint32_t>(tasks.size()), numbered);
  }

  template <class F>
  void eachToken(F work) {
    each(plan_.tasks, [&](const TokenTask &task) {
      for (uint32_t token = task.begin; token < task.end; token++) work(task.rank, token);
    });
  }

  // Calls work(entry, packed row) for each kept entry of a token.
  template <class F>
  void eachPacked(uint32_t rank, uint32_t token, F work) {
    const Place *packedAt = unfused_.tables.packedAt.data() + unfused_.tables.firstEntry[rank];
    for (uint64_t entry = uint64_t{token} * plan_.topk; entry < (token + uint64_t{1}) * plan_.topk; entry++) {
      if (packedAt[entry].row < 0) continue;
      work(entry, unfused_.packed.get() + static_cast<uint64_t>(packedAt[entry].row) * rowBytes_);
    }
  }

  fusco_unfused &unfused_;
  fusco_plan &plan_;
  uint64_t rowBytes_;
  const Kernels &kernels_;
  void (*copy_)(const uint8_t *, uint8_t *const *, size_t, size_t);
};

void fillStats(const fusco_unfused &unfused, uint64_t read, uint64_t written, uint64_t taken,
               fusco_stats *stats) {
  if (stats == nullptr) return;
  *stats = {read * unfused.rowBytes, written * unfused.rowBytes, unfused.plan.kept, taken, 0};
}

}  // namespace

extern "C" {

fusco_status fusco_unfused_create(fusco_plan *plan, uint64_t row_bytes, fusco_unfused **unfused,
                                  fusco_error *error) {
  return guarded(error, [&] {
    if (plan == nullptr || unfused == nullptr)
      throw Failure(FUSCO_E_OPTION, "the plan or the handle is NULL");
    checkRowBytes(row_bytes);
    *unfused = makeUnfused(*plan, row_bytes).release();
  });
}

void fusco_unfused_destroy(fusco_unfused *unfused) { delete unfused; }

fusco_status fusco_unfused_dispatch(fusco_unfused *unfused, const fusco_buffer *from, const fusco_buffer *to,
                                    fusco_stats *stats, fusco_error *error) {
  return guarded(error, [&] {
    if (unfused == nullptr) throw Failure(FUSCO_E_OPTION, "the handle is NULL");
    const std::lock_guard<std::mutex> turn(unfused->plan.context->mutex);
    BufferCheck buffers(unfused->plan);
    buffers.tokens("from", from, unfused->rowBytes, false);
    buffers.received("to", to, unfused->rowBytes, true);
    buffers.refuseOverlap();
    const uint64_t taken = nanosecondsOf([&] {
      Pipeline pipeline(*unfused);
      pipeline.pack(from);
      pipeline.exchange(false);
      pipeline.permute(to, false);
    });
    fillStats(*unfused, unfused->plan.tokens, unfused->plan.kept, taken, stats);
  });
}

fusco_status fusco_unfused_combine(fusco_unfused *unfused, const fusco_combine_call *call, fusco_stats *stats,
                                   fusco_error *error) {
  return guarded(error, [&] {
    if (unfused == nullptr || call == nullptr)
      throw Failure(FUSCO_E_OPTION, "the handle or the call is NULL");
    const std::lock_guard<std::mutex> turn(unfused->plan.context->mutex);
    if (call->row_bytes != unfused->rowBytes) throw Failure(FUSCO_E_OPTION, "rows of another size");
    checkCombineCall(unfused->plan, *call);
    const uint64_t taken = nanosecondsOf([&] {
      Pipeline pipeline(*unfused);
      pipeline.permute(call->from, true);
      pipeline.exchange(true);
      pipeline.reduce(*call);
    });
    fillStats(*unfused, unfused->plan.kept, unfused->plan.tokens, taken, stats);
  });
}

}  // extern "C"
