#include "buffers.hpp"
#include "exchange_frame.hpp"
#include "fusco_nccl_bench.h"
#include "guard.hpp"

namespace fusco::nccl {

class Unfused {
 public:
  Unfused(std::shared_ptr<Plan> plan, uint64_t rowBytes)
      : plan_(std::move(plan)),
        rowBytes_(rowBytes),
        packedRows_(plan_->group().context()),
        exchangedRows_(plan_->group().context()) {
    Group &group = plan_->group();
    if (group.hasNeighbors() || plan_->sizes().isHierarchical || rowBytes % 16 != 0) {
      throw Failure(FUSCO_E_BACKEND,
                    "the unfused pipeline takes flat plans, rows of whole 16 bytes and ranks that "
                    "are alone on their machines");
    }
    const OnDevice here(group.device());
    received_ = plan_->tables().entryReceive.total();
    sent_ = plan_->tables().entrySend.total();
    const uint64_t rows = std::max<uint64_t>(std::max(sent_, received_), 1);
    packed_ = packedRows_.atLeast(rows * rowBytes);
    exchanged_ = exchangedRows_.atLeast(rows * rowBytes);
    done_.create(group.device(), cuda::Timing::off);
    inputs_.create(group.device(), cuda::Timing::off);
  }

  // After everything that uses the buffers, which their arenas free.
  ~Unfused() {
    const OnDevice here(group().device());
    cudaDeviceSynchronize();
  }
  Unfused(const Unfused &) = delete;
  Unfused &operator=(const Unfused &) = delete;

  void dispatch(const fusco_nccl_call &id, const fusco_buffer *from, const fusco_buffer *to,
                fusco_stats &stats) {
    Group &group = begin(id);
    // Rows of the local rank need no exchange; the fused kernel moves them here as well.
    cuda::DispatchParams local{};
    local.plan = plan_->device().direct;
    local.barrier = plan_->device().barrier;
    local.leading = local.payloads = 1;
    local.payload[0].rowBytes = rowBytes_;
    local.payload[0].unit = 16;
    local.payload[0].from[0] = bytesOf(from[0]);
    local.payload[0].to[0] = bytesOf(to[0]);
    local.chunkBytes[0] = cuda::chunkOf(rowBytes_);
    local.tiling = cuda::chooseTiling(group.limits(), plan_->sizes().topk, local.chunkBytes[0], 0);
    group.must(cuda::launchDispatch(local, group.limits(), group.wireStream()), "copying local rows");
    pack(plan_->device().entryOrder, plan_->sizes().topk, from[0], sent_);
    exchange(plan_->tables().entrySend, packed_, plan_->tables().entryReceive, exchanged_);
    const ScatterParams unpack = intoSlots(*plan_, allRows(received_), exchanged_, rowBytes_, bytesOf(to[0]));
    group.must(launchScatter(unpack, group.wireStream()), "unpacking");
    end(stats);
  }

  void combine(const fusco_nccl_call &id, const fusco_combine_call &call, fusco_stats &stats) {
    Group &group = begin(id);
    pack(plan_->device().arrivalSlot, 1, call.from[0], received_);
    exchange(plan_->tables().entryReceive, packed_, plan_->tables().entrySend, exchanged_);
    SumParams sums{};
    sums.ranges = allRows(plan_->sizes().tokens);
    sums.offset = plan_->device().sumOffset;
    sums.terms = plan_->device().sumTerms;
    sums.rowBytes = sums.landingRowBytes = rowBytes_;
    sums.from[0] = bytesOf(call.from[0]);
    sums.from[landingPeer] = exchanged_;
    sums.to = bytesOf(call.to[0]);
    sums.weights = floatsOf(call.weights);
    group.must(launchSums(sums, {call.dtype, Tree::none, SumOutput::payload, 16}, group.wireStream()),
               "adding up");
    end(stats);
  }

  Group &group() const { return plan_->group(); }

 private:
  void pack(const uint32_t *index, uint32_t divide, const fusco_buffer &from, uint64_t rows) {
    PackParams params = packOf(index, divide, bytesOf(from), rowBytes_);
    params.ranges = allRows(rows);
    params.to = packed_;
    group().must(launchPack(params, group().wireStream()), "packing");
  }

  Group &begin(const fusco_nccl_call &id) {
    Group &group = plan_->group();
    group.enter(id);
    started_ = monotonicNs();
    group.record(inputs_, group.context().stream(0));
    group.order(group.wireStream(), inputs_);
    return group;
  }

  void exchange(const SendOrder &send, const uint8_t *from, const SendOrder &receive, uint8_t *to) {
    group().round([&] {
      for (uint32_t peer = 0; peer < send.ranks(); peer++) {
        const uint64_t sent = send.rows(peer) * rowBytes_;
        const uint64_t received = receive.rows(peer) * rowBytes_;
        if (sent > 0) group().send(from + send.start(peer) * rowBytes_, sent, peer);
        if (received > 0) group().receive(to + receive.start(peer) * rowBytes_, received, peer);
      }
    });
  }

  void end(fusco_stats &stats) {
    Group &group = plan_->group();
    group.record(done_, group.wireStream());
    group.must(cudaStreamWaitEvent(group.context().stream(0), done_.get(), 0), "ordering a stream");
    group.waitFor(done_.get(), "the unfused pipeline");
    stats.started = started_;
    stats.nanoseconds = monotonicNs() - started_;
  }

  std::shared_ptr<Plan> plan_;
  uint64_t rowBytes_;
  uint64_t sent_ = 0;
  uint64_t received_ = 0;
  Arena packedRows_;
  Arena exchangedRows_;
  uint8_t *packed_ = nullptr;
  uint8_t *exchanged_ = nullptr;
  cuda::Event done_;
  cuda::Event inputs_;
  uint64_t started_ = 0;
};

}  // namespace fusco::nccl

struct fusco_nccl_unfused {
  fusco::nccl::Unfused pipeline;
};

using fusco::Failure;
using fusco::guarded;

namespace {

// Runs `work(pipeline, stats)` unless an argument is missing.
template <class F>
fusco_status run(fusco_nccl_unfused *unfused, bool given, fusco_stats *stats, fusco_error *error, F work) {
  return guarded(error, [&] {
    if (unfused == nullptr || !given) throw Failure(FUSCO_E_OPTION, "an argument is NULL");
    const fusco::cuda::OnDevice here(unfused->pipeline.group().device());
    fusco_stats measured{};
    work(unfused->pipeline, measured);
    if (stats != nullptr) *stats = measured;
  });
}

}  // namespace

extern "C" {

fusco_status fusco_nccl_unfused_create(fusco_nccl_plan *plan, uint64_t row_bytes,
                                       fusco_nccl_unfused **unfused, fusco_error *error) {
  return guarded(error, [&] {
    if (plan == nullptr || unfused == nullptr) throw Failure(FUSCO_E_OPTION, "an argument is NULL");
    fusco::checkRowBytes(row_bytes);
    if (plan->shared == nullptr) throw Failure(FUSCO_E_OPTION, "the plan is in a plan buffer: prepare it");
    *unfused = new fusco_nccl_unfused{{plan->shared, row_bytes}};
  });
}

void fusco_nccl_unfused_destroy(fusco_nccl_unfused *unfused) { delete unfused; }

fusco_status fusco_nccl_unfused_dispatch(fusco_nccl_unfused *unfused, const fusco_nccl_call *id,
                                         const fusco_buffer *from, const fusco_buffer *to, fusco_stats *stats,
                                         fusco_error *error) {
  return run(unfused, id != nullptr, stats, error,
             [&](auto &pipeline, auto &measured) { pipeline.dispatch(*id, from, to, measured); });
}

fusco_status fusco_nccl_unfused_combine(fusco_nccl_unfused *unfused, const fusco_nccl_call *id,
                                        const fusco_combine_call *call, fusco_stats *stats,
                                        fusco_error *error) {
  return run(unfused, id != nullptr && call != nullptr, stats, error,
             [&](auto &pipeline, auto &measured) { pipeline.combine(*id, *call, measured); });
}

}  // extern "C"
