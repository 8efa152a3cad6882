// What the exchanges between processes have in common: checks of the own buffers, and the order of streams
// and edges.
#pragma once

#include <functional>

#include "alignment.hpp"
#include "buffers.hpp"
#include "failure.hpp"
#include "kernels.hpp"
#include "nccl_exchange.hpp"
#include "transfer.hpp"

namespace fusco::nccl {

using cuda::bitsOf;
using cuda::bytesOf;
using cuda::checkAligned;
using cuda::OnDevice;
using cuda::unitOf;

// More payloads than this would not fit on a board with the origins.
constexpr uint32_t mostPayloads = 60;

inline void checkReach(Plan &plan, const char *name, const fusco_buffer *buffers) {
  if (buffers == nullptr || buffers[0].bytes == 0) return;
  const std::lock_guard<std::mutex> lock(plan.group().context().mutex);
  plan.group().context().checkReach(name, 0, buffers[0].data);
}

inline const float *floatsOf(const fusco_buffer *buffers) {
  return buffers == nullptr ? nullptr : reinterpret_cast<const float *>(buffers[0].data);
}

// One exchange from its first check to its last row. The order of calls is that of the members.
class Exchange {
 public:
  Exchange(Plan &plan, const fusco_nccl_step &step, fusco_nccl_report &report, const fusco_nccl_peers *peers)
      : plan_(plan),
        group_(plan.group()),
        step_(step),
        here_(plan.group().device()),
        timeline_(plan.group(), peers != nullptr),
        traffic_{&report, peers},
        report_(report) {
    inputs_.create(group_.device(), false);
    near_.create(group_.device(), false);
    spread_.create(group_.device(), false);
    finished_.create(group_.device(), false);
    started_ = monotonicNs();
    group_.enter(step);
  }

  // Neighbors' buffers: mapped(i)[n] is buffer i of neighbor n.
  void meet(const std::vector<fusco_buffer> &buffers, const std::vector<uint64_t> &rowBytes) {
    group_.meet(step_, buffers, rowBytes, plan_.reach(), mapped_, &report_.ready_ns);
  }
  const std::vector<uint8_t *> &mapped(size_t buffer) const { return mapped_[buffer]; }

  // What is enqueued on the group's streams from here on sees the caller's inputs; on work() and direct() the
  // neighbors' as well.
  void begin() {
    group_.record(inputs_, group_.context().stream(0));
    group_.order(group_.wire(), inputs_);
    group_.order(group_.packing(), inputs_);
    group_.order(group_.work(), inputs_);
    group_.edge(Group::readyEdge);
    group_.record(near_, group_.work());
    group_.order(group_.direct(), near_);
  }
  // Packing that reads neighbors' memory has to wait for them.
  void packAfterNeighbors() { group_.order(group_.packing(), near_); }

  // Work on direct(): it starts when the first step is on the wire, which would otherwise wait for room.
  void beside(std::function<void()> work) { beside_ = std::move(work); }

  void run(const Route &route, const std::vector<SendRecvPhase> &legs) {
    transfer(plan_, route, legs, timeline_, traffic_, [this] { startBeside(); });
  }

  // Brings one float an entry to the forwarders of the rows, or nothing where no row is forwarded. Returns
  // those that came, by place.
  const float *sendWeights(const float *weights) {
    if (weights == nullptr || !plan_.tables().forwards) return nullptr;
    uint8_t *sent = group_.arena(Use::weights).atLeast(weightArena());
    uint8_t *received = sent + alignSlot(plan_.placesSent() * sizeof(float));
    PackParams params{};
    params.ranges.count = 1;
    params.ranges.rows = static_cast<uint32_t>(plan_.placesSent());
    params.ranges.range[0] = {0, params.ranges.rows, 0};
    params.index = plan_.device().placeEntry;
    params.divide = 1;
    params.from = reinterpret_cast<const uint8_t *>(weights);
    params.to = sent;
    params.rowBytes = params.unit = sizeof(float);
    group_.must(launchPack(params, group_.wire()), "packing weights");
    group_.swap(sent, plan_.weightBytesSent(), received, plan_.weightBytesReceived());
    cuda::Event came;
    came.create(group_.device(), false);
    group_.record(came, group_.wire());
    group_.order(group_.work(), came);
    group_.order(group_.packing(), came);
    return reinterpret_cast<const float *>(received);
  }
  // Arenas grow before anything is enqueued.
  void reserveWeights(const void *weights) {
    if (weights != nullptr && plan_.tables().forwards) group_.arena(Use::weights).atLeast(weightArena());
  }

  // Waits for the last row, here and at the neighbors.
  void end() {
    startBeside();
    group_.record(spread_, group_.direct());
    group_.order(group_.work(), spread_);
    group_.edge(Group::doneEdge);
    group_.record(finished_, group_.work());
    group_.must(cudaStreamWaitEvent(group_.context().stream(0), finished_.get(), 0), "ordering a stream");
    group_.waitFor(finished_.get(), "an exchange");
    report_.stats.nanoseconds = monotonicNs() - started_;
    report_.stats.started = started_;
    timeline_.report(report_, traffic_.peers);
    if (traffic_.peers == nullptr || traffic_.peers->wait_ns == nullptr) return;
    const Neighbors &near = group_.near();
    for (uint32_t i = 0; i < near.local.size(); i++) {
      traffic_.peers->wait_ns[near.local[i]] += group_.lateness(step_, i);
    }
  }

 private:
  void startBeside() {
    if (beside_) beside_();
    beside_ = nullptr;
  }

  uint64_t weightArena() const {
    return alignSlot(plan_.placesSent() * sizeof(float)) + plan_.placesReceived() * sizeof(float) + 1;
  }

  Plan &plan_;
  Group &group_;
  const fusco_nccl_step step_;
  const OnDevice here_;
  Timeline timeline_;
  Traffic traffic_;
  fusco_nccl_report &report_;
  std::vector<std::vector<uint8_t *>> mapped_;
  cuda::Event inputs_;
  cuda::Event near_;
  cuda::Event spread_;
  cuda::Event finished_;
  std::function<void()> beside_;
  uint64_t started_ = 0;
};

}  // namespace fusco::nccl
