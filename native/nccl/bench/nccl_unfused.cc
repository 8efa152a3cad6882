#include "buffers.hpp"
#include "exchange_launch.hpp"
#include "fusco_nccl_bench.h"
#include "guard.hpp"
#include "kernels.hpp"
#include "nccl_plan.hpp"

namespace fusco::nccl {

namespace {

using cuda::OnDevice;

Ranges wholeRange(uint64_t rows) {
  Ranges ranges;
  ranges.count = 1;
  ranges.rows = static_cast<uint32_t>(rows);
  ranges.range[0] = {0, ranges.rows, 0};
  return ranges;
}

std::vector<uint64_t> bytesOf(const SendOrder &sendOrder, uint64_t rowBytes) {
  std::vector<uint64_t> bytes(sendOrder.ranks());
  for (uint32_t peer = 0; peer < sendOrder.ranks(); peer++) bytes[peer] = sendOrder.rows(peer) * rowBytes;
  return bytes;
}

}  // namespace

class Unfused {
 public:
  Unfused(std::shared_ptr<Plan> plan, uint64_t rowBytes) : plan_(std::move(plan)), rowBytes_(rowBytes) {
    Group &group = plan_->group();
    if (group.hasNeighbors() || plan_->sizes().tree != Tree::none || rowBytes % 16 != 0) {
      throw Failure(FUSCO_E_BACKEND,
                    "the unfused pipeline takes flat plans, rows of whole 16 bytes and ranks that "
                    "are alone on their machines");
    }
    const OnDevice here(group.device());
    received_ = plan_->tables().entryReceive.total();
    sent_ = plan_->tables().entrySend.total();
    const uint64_t rows = std::max<uint64_t>(std::max(sent_, received_), 1);
    packed_ = allocate<uint8_t>(rows * rowBytes);
    exchanged_ = allocate<uint8_t>(rows * rowBytes);
    done_.create(group.device(), cuda::Timing::off);
    inputs_.create(group.device(), cuda::Timing::off);
  }

  ~Unfused() {
    const OnDevice here(plan_->group().device());
    cudaDeviceSynchronize();
    for (void *memory : owned_) cudaFree(memory);
    (void)cudaGetLastError();
  }
  Unfused(const Unfused &) = delete;
  Unfused &operator=(const Unfused &) = delete;

  void dispatch(const fusco_nccl_call &id, const fusco_buffer *from, const fusco_buffer *to,
                fusco_stats &stats) {
    Group &group = begin(id);
    // Rows of the local rank need no exchange; the fused kernel moves them here as well.
    cuda::DispatchParams local{};
    local.plan = plan_->device().direct;
    local.place = local.plan.place;
    local.barrier = plan_->device().barrier;
    local.leading = local.payloads = 1;
    local.payload[0].rowBytes = rowBytes_;
    local.payload[0].unit = 16;
    local.payload[0].from[0] = static_cast<const uint8_t *>(from[0].data);
    local.payload[0].to[0] = static_cast<uint8_t *>(to[0].data);
    local.chunkBytes[0] = cuda::chunkOf(rowBytes_);
    local.tiling = cuda::chooseTiling(group.limits(), plan_->sizes().topk, local.chunkBytes[0], 0);
    group.must(cuda::launchDispatch(local, group.limits(), group.wireStream()), "copying local rows");
    PackParams pack{};
    pack.ranges = wholeRange(sent_);
    pack.index = plan_->device().entryOrder;
    pack.divide = plan_->sizes().topk;
    pack.from = static_cast<const uint8_t *>(from[0].data);
    pack.to = packed_;
    pack.rowBytes = rowBytes_;
    pack.unit = 16;
    group.must(launchPack(pack, group.wireStream()), "packing");
    exchange(plan_->tables().entrySend, packed_, plan_->tables().entryReceive, exchanged_);
    ScatterParams unpack{};
    unpack.ranges = wholeRange(received_);
    unpack.slot = plan_->device().arrivalSlot;
    unpack.from = exchanged_;
    unpack.rowBytes = rowBytes_;
    unpack.unit = 16;
    unpack.to[0] = static_cast<uint8_t *>(to[0].data);
    group.must(launchScatter(unpack, group.wireStream()), "unpacking");
    end(stats);
  }

  void combine(const fusco_nccl_call &id, const fusco_combine_call &call, fusco_stats &stats) {
    Group &group = begin(id);
    PackParams pack{};
    pack.ranges = wholeRange(received_);
    pack.index = plan_->device().arrivalSlot;
    pack.divide = 1;
    pack.from = static_cast<const uint8_t *>(call.from[0].data);
    pack.to = packed_;
    pack.rowBytes = rowBytes_;
    pack.unit = 16;
    group.must(launchPack(pack, group.wireStream()), "permuting");
    exchange(plan_->tables().entryReceive, packed_, plan_->tables().entrySend, exchanged_);
    SumParams sums{};
    sums.ranges = wholeRange(plan_->sizes().tokens);
    sums.offset = plan_->device().sumOffset;
    sums.terms = plan_->device().sumTerms;
    sums.rowBytes = sums.landingRowBytes = rowBytes_;
    sums.from[0] = static_cast<const uint8_t *>(call.from[0].data);
    sums.from[landingPeer] = exchanged_;
    sums.to = static_cast<uint8_t *>(call.to[0].data);
    sums.weights = call.weights == nullptr ? nullptr : static_cast<const float *>(call.weights[0].data);
    group.must(launchSums(sums, {call.dtype, Tree::none, SumOutput::payload, 16}, group.wireStream()),
               "adding up");
    end(stats);
  }

  Group &group() const { return plan_->group(); }

 private:
  template <class T>
  T *allocate(uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(plan_->group().context().mutex);
    owned_.push_back(plan_->group().context().allocRaw(0, bytes));
    return static_cast<T *>(owned_.back());
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
    const std::vector<uint64_t> sendBytes = bytesOf(send, rowBytes_);
    const std::vector<uint64_t> receiveBytes = bytesOf(receive, rowBytes_);
    Group &group = plan_->group();
    group.round([&] {
      for (uint32_t peer = 0; peer < send.ranks(); peer++) {
        if (sendBytes[peer] > 0) group.send(from + send.start(peer) * rowBytes_, sendBytes[peer], peer);
        if (receiveBytes[peer] > 0)
          group.receive(to + receive.start(peer) * rowBytes_, receiveBytes[peer], peer);
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
  uint8_t *packed_ = nullptr;
  uint8_t *exchanged_ = nullptr;
  std::vector<void *> owned_;
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

extern "C" {

fusco_status fusco_nccl_unfused_create(fusco_nccl_plan *plan, uint64_t row_bytes,
                                       fusco_nccl_unfused **unfused, fusco_error *error) {
  return guarded(error, [&] {
    if (plan == nullptr || unfused == nullptr) throw Failure(FUSCO_E_OPTION, "an argument is NULL");
    fusco::checkRowBytes(row_bytes);
    *unfused = new fusco_nccl_unfused{{plan->shared, row_bytes}};
  });
}

void fusco_nccl_unfused_destroy(fusco_nccl_unfused *unfused) { delete unfused; }

fusco_status fusco_nccl_unfused_dispatch(fusco_nccl_unfused *unfused, const fusco_nccl_call *id,
                                         const fusco_buffer *from, const fusco_buffer *to, fusco_stats *stats,
                                         fusco_error *error) {
  return guarded(error, [&] {
    if (unfused == nullptr || id == nullptr) throw Failure(FUSCO_E_OPTION, "an argument is NULL");
    const fusco::cuda::OnDevice here(unfused->pipeline.group().device());
    fusco_stats measured{};
    unfused->pipeline.dispatch(*id, from, to, measured);
    if (stats != nullptr) *stats = measured;
  });
}

fusco_status fusco_nccl_unfused_combine(fusco_nccl_unfused *unfused, const fusco_nccl_call *id,
                                        const fusco_combine_call *call, fusco_stats *stats,
                                        fusco_error *error) {
  return guarded(error, [&] {
    if (unfused == nullptr || id == nullptr || call == nullptr)
      throw Failure(FUSCO_E_OPTION, "an argument is NULL");
    const fusco::cuda::OnDevice here(unfused->pipeline.group().device());
    fusco_stats measured{};
    unfused->pipeline.combine(*id, *call, measured);
    if (stats != nullptr) *stats = measured;
  });
}

}  // extern "C"
