// The unfused pipeline. A source rank packs its rows by destination rank, one block per peer is copied, and
// each peer permutes the rows that arrived into expert order. Combine goes the same way back and adds on the
// token's rank. Every row crosses memory three times; the fused exchange moves it once.

#include <algorithm>
#include <cstring>
#include <memory>

#include "buffers.hpp"
#include "fusco_bench.h"
#include "guard.hpp"
#include "measure.hpp"
#include "plan.hpp"
#include "plan_layout.h"

namespace {

using namespace fusco;

constexpr uint32_t taskRows = 128;
constexpr uint64_t chunkBytes = 1 << 20;

// Part of the block that one rank sends to one peer.
struct BlockCopy {
  uint32_t source;
  uint32_t peer;
  uint64_t sendRow;  // in the source's packed buffer
  uint64_t recvRow;  // in the peer's arrival buffer
  uint64_t rows;
};

// Rows of an arrival buffer that one thread permutes.
struct RowTask {
  uint32_t peer;
  uint64_t begin;
  uint64_t end;
};

struct RankTables {
  std::vector<uint32_t> packed;  // [entries], row in the packed buffer
  std::vector<uint32_t> slot;    // [arrived rows], row in the receive buffer
  std::unique_ptr<uint8_t[]> packedRows;
  std::unique_ptr<uint8_t[]> arrivedRows;
};

}  // namespace

struct fusco_unfused {
  fusco_plan &plan;
  uint64_t rowBytes;
  std::vector<RankTables> rank;
  std::vector<BlockCopy> blocks;
  std::vector<RowTask> rowTasks;
};

namespace {

// Packs source's entries for each peer in the order of their slots, which is the order (expert, token, k).
void tableOfSource(fusco_unfused &unfused, uint32_t source, std::vector<uint64_t> &arrived) {
  const RankPlan &part = unfused.plan.rank[source];
  std::vector<std::vector<std::pair<int32_t, uint32_t>>> toPeer(unfused.plan.ranks);
  for (uint32_t entry = 0; entry < part.places.size(); entry++) {
    const Place &place = part.places[entry];
    if (place.row >= 0) toPeer[place.peer].emplace_back(place.row, entry);
  }
  RankTables &tables = unfused.rank[source];
  tables.packed.assign(part.places.size(), 0);
  uint64_t row = 0;
  for (uint32_t peer = 0; peer < unfused.plan.ranks; peer++) {
    std::sort(toPeer[peer].begin(), toPeer[peer].end());
    const uint64_t rows = toPeer[peer].size();
    const uint64_t step = std::max<uint64_t>(1, chunkBytes / unfused.rowBytes);
    for (uint64_t at = 0; at < rows; at += step) {
      unfused.blocks.push_back({source, peer, row + at, arrived[peer] + at, std::min(step, rows - at)});
    }
    for (const auto &[slot, entry] : toPeer[peer]) {
      tables.packed[entry] = static_cast<uint32_t>(row++);
      unfused.rank[peer].slot.push_back(static_cast<uint32_t>(slot));
    }
    arrived[peer] += rows;
  }
}

void makeTables(fusco_unfused &unfused) {
  const uint32_t ranks = unfused.plan.ranks;
  std::vector<uint64_t> arrived(ranks, 0);
  unfused.rank.resize(ranks);
  for (uint32_t source = 0; source < ranks; source++) tableOfSource(unfused, source, arrived);
  for (uint32_t rank = 0; rank < ranks; rank++) {
    RankTables &tables = unfused.rank[rank];
    tables.packedRows = std::make_unique<uint8_t[]>(unfused.plan.rank[rank].kept * unfused.rowBytes);
    tables.arrivedRows = std::make_unique<uint8_t[]>(arrived[rank] * unfused.rowBytes);
    for (uint64_t begin = 0; begin < arrived[rank]; begin += taskRows) {
      unfused.rowTasks.push_back({rank, begin, std::min<uint64_t>(begin + taskRows, arrived[rank])});
    }
  }
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
    each(plan_.tasks, [&](const TokenTask &task) {
      uint8_t *places[FUSCO_MAX_TOPK];
      RankTables &tables = unfused_.rank[task.rank];
      for (uint32_t token = task.begin; token < task.end; token++) {
        size_t count = 0;
        for (uint32_t k = 0; k < plan_.topk; k++) {
          const uint64_t entry = uint64_t{token} * plan_.topk + k;
          if (plan_.rank[task.rank].places[entry].row < 0) continue;
          places[count++] = tables.packedRows.get() + tables.packed[entry] * rowBytes_;
        }
        copy_(rowOf(from, task.rank, token, rowBytes_), places, count, rowBytes_);
      }
    });
  }

  void exchange(bool back) {
    each(unfused_.blocks, [&](const BlockCopy &block) {
      uint8_t *sent = unfused_.rank[block.source].packedRows.get() + block.sendRow * rowBytes_;
      uint8_t *arrived = unfused_.rank[block.peer].arrivedRows.get() + block.recvRow * rowBytes_;
      uint8_t *place = back ? sent : arrived;
      copy_(back ? arrived : sent, &place, 1, block.rows * rowBytes_);
    });
  }

  // Between arrival order and expert order.
  void permute(const fusco_buffer *received, bool back) {
    each(unfused_.rowTasks, [&](const RowTask &task) {
      RankTables &tables = unfused_.rank[task.peer];
      for (uint64_t row = task.begin; row < task.end; row++) {
        uint8_t *arrived = tables.arrivedRows.get() + row * rowBytes_;
        uint8_t *slot = rowOf(received, task.peer, tables.slot[row], rowBytes_);
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
    each(plan_.tasks, [&](const TokenTask &task) {
      Term terms[FUSCO_MAX_TOPK];
      RankTables &tables = unfused_.rank[task.rank];
      for (uint32_t token = task.begin; token < task.end; token++) {
        size_t count = 0;
        for (uint32_t k = 0; k < plan_.topk; k++) {
          const uint64_t entry = uint64_t{token} * plan_.topk + k;
          if (plan_.rank[task.rank].places[entry].row < 0) continue;
          Term &term = terms[count++];
          term = {tables.packedRows.get() + tables.packed[entry] * rowBytes_, 0.0f, false};
          if (call.weights != nullptr) std::memcpy(&term.weight, rowOf(call.weights, task.rank, entry, 4), 4);
        }
        add(rowOf(call.to, task.rank, token, rowBytes_), terms, count, elements, nonTemporal);
      }
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
    std::unique_ptr<fusco_unfused> made(new fusco_unfused{*plan, row_bytes, {}, {}, {}});
    makeTables(*made);
    *unfused = made.release();
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
    checkElements(call->dtype, call->row_bytes);
    BufferCheck buffers(unfused->plan);
    buffers.received("from", call->from, call->row_bytes, false);
    buffers.tokens("to", call->to, call->row_bytes, true);
    if (call->weights != nullptr) buffers.entries("weights", call->weights, weightBytes, false);
    buffers.refuseOverlap();
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
