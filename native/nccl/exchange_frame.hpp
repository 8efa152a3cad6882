// What the exchanges between processes have in common: checks of the local buffers, and the order of streams
// and of the edges ready and done.
#pragma once

#include <algorithm>
#include <functional>

#include "device_call_checks.hpp"
#include "kernels.hpp"
#include "nccl_exchange.hpp"
#include "transfer.hpp"

namespace fusco::nccl {

using cuda::bitsOf;
using cuda::bytesOf;
using cuda::OnDevice;
using cuda::unitOf;

// Payloads of one call. With the origins they must fit a post of the mailbox.
constexpr uint32_t maxCallPayloads = 60;
static_assert(maxCallPayloads < maxPosted, "the origins need a place as well");

inline cuda::CheckReach reachOf(Plan &plan) {
  return [&plan](const char *name, uint32_t rank, const fusco_buffer &buffer) {
    const std::lock_guard<std::mutex> lock(plan.group().context().mutex);
    plan.group().context().checkReach(name, rank, buffer.data);
  };
}

// The local rank's buffer; null for an optional array that was not given.
inline const float *floatsOf(const fusco_buffer *buffers) {
  return buffers == nullptr ? nullptr : static_cast<const float *>(buffers[0].data);
}

// Copies the neighbors' addresses of one buffer to `pointers` [neighbors] and returns their bits, for
// unitOf().
template <class Pointer>
uint64_t copyAddresses(const std::vector<uint8_t *> &mapped, Pointer *pointers) {
  std::copy(mapped.begin(), mapped.end(), pointers);
  uint64_t bits = 0;
  for (const uint8_t *address : mapped) bits |= bitsOf(address);
  return bits;
}

// Gathers rows index[i] / divide of `from`. The caller adds the ranges and `to`.
inline PackParams packOf(const uint32_t *index, uint32_t divide, const uint8_t *from, uint64_t rowBytes) {
  PackParams params{};
  params.index = index;
  params.divide = divide;
  params.from = from;
  params.rowBytes = rowBytes;
  // Slots are aligned; rows in them are not if their size is odd.
  params.unit = unitOf(rowBytes | bitsOf(from));
  return params;
}

// Scatters received rows of entries from a segment into their slots of the local rank's buffer `to`.
inline ScatterParams intoSlots(const Plan &plan, const Ranges &ranges, const uint8_t *segment,
                               uint64_t rowBytes, uint8_t *to) {
  ScatterParams params{};
  params.ranges = ranges;
  params.slot = plan.device().arrivalSlot;
  params.self = plan.group().neighbors().self;
  params.from = segment;
  params.rowBytes = rowBytes;
  params.unit = unitOf(rowBytes | bitsOf(to));
  params.to[params.self] = to;
  return params;
}

// One exchange of the local rank, from its entry into the call to its last row. All work is enqueued on the
// group's four streams; the caller's stream is ordered before and after them. The members are called in
// this order, on one thread:
//
//   Exchange          enters the call. A failure from here on breaks the group.
//   reserve...        makes room in the group's arenas, which may wait for the device.
//   shareBuffers      waits for the neighbors; then mapped() may be used.
//   begin             orders the streams behind the inputs of this rank and of its neighbors.
//   sendWeights, packAfterNeighbors, afterFirstRound, afterNeighbors
//                     as the exchange needs them.
//   run               once for each route.
//   end               waits on the host until the last row is in place, here and at the neighbors.
class Exchange {
 public:
  Exchange(Plan &plan, const fusco_nccl_call &call, fusco_nccl_report &report, const fusco_nccl_peers *peers)
      : plan_(plan),
        group_(plan.group()),
        call_(call),
        here_(plan.group().device()),
        timeline_(plan.group(), peers != nullptr),
        traffic_{report, peers == nullptr ? fusco_nccl_peers{} : *peers} {
    for (cuda::Event *event : {&inputs_, &neighborsReady_, &directDone_, &finished_, &weightsCame_}) {
      event->create(group_.device(), cuda::Timing::off);
    }
    started_ = monotonicNs();
    group_.enter(call);
  }

  // See Group::shareBuffers.
  void shareBuffers(const std::vector<SharedBuffer> &buffers) {
    mapped_ = group_.shareBuffers(call_, buffers, plan_.reach(), traffic_.report.ready_ns);
  }
  // [neighbors]: buffer `buffer` of each, in this process's address space; valid until the next exchange.
  const std::vector<uint8_t *> &mapped(size_t buffer) const { return mapped_[buffer]; }

  // What is enqueued from here on sees the caller's inputs; on workStream() and directStream() also the
  // neighbors'.
  void begin() {
    group_.record(inputs_, group_.context().stream(0));
    group_.order(group_.wireStream(), inputs_);
    group_.order(group_.packStream(), inputs_);
    group_.order(group_.workStream(), inputs_);
    group_.edge(Group::readyEdge);
    group_.record(neighborsReady_, group_.workStream());
    group_.order(group_.directStream(), neighborsReady_);
  }
  // For packing that reads neighbors' memory.
  void packAfterNeighbors() { group_.order(group_.packStream(), neighborsReady_); }

  // `work` enqueues on directStream(). It is called when the first round has been launched: NCCL's kernel
  // would otherwise wait for room on the SMs. Without any round it is called by end().
  void afterFirstRound(std::function<void()> work) { afterFirstRound_ = std::move(work); }

  // `work` enqueues on workStream(), where all rows of this rank have arrived: called by end().
  void afterNeighbors(std::function<void()> work) { afterNeighbors_ = std::move(work); }

  // Sends and receives all rows of a route. See transfer().
  void run(const Route &route, const std::vector<SendRecvPhase> &phases) {
    transfer(plan_, route, phases, timeline_, traffic_, [this] { startDirect(); });
  }

  // Makes room for the weights of forwarded rows. Returns where sendWeights() will receive those of the rows
  // that this rank forwards: device memory, f32 [placesReceived], in the order of the landed rows' places,
  // valid until the next exchange. Null if `weights` is null or the plan forwards no rows.
  const float *reserveWeights(const fusco_buffer *weights) {
    if (weights == nullptr || !plan_.tables().forwards) return nullptr;
    const uint64_t sentBytes = alignSegment(plan_.placesSent() * sizeof(float));
    sentWeights_ = group_.arena(Use::weights).atLeast(sentBytes + plan_.placesReceived() * sizeof(float) + 1);
    receivedWeights_ = sentWeights_ + sentBytes;
    return reinterpret_cast<const float *>(receivedWeights_);
  }
  // Sends the weights of forwarded rows to their forwarders, on wireStream(), if there is room for them.
  // `weights` is device memory, f32 [tokens, topk]. workStream() and packStream() are ordered behind.
  void sendWeights(const fusco_buffer *weights) {
    if (sentWeights_ == nullptr) return;
    PackParams params = packOf(plan_.device().placeEntry, 1, bytesOf(weights[0]), sizeof(float));
    params.ranges = allRows(plan_.placesSent());
    params.to = sentWeights_;
    group_.must(launchPack(params, group_.wireStream()), "packing weights");
    group_.swap(sentWeights_, plan_.weightBytesSent(), receivedWeights_, plan_.weightBytesReceived());
    group_.record(weightsCame_, group_.wireStream());
    group_.order(group_.workStream(), weightsCame_);
    group_.order(group_.packStream(), weightsCame_);
  }

  // Orders the caller's stream behind the exchange, waits for it on the host, and completes the report.
  void end() {
    startDirect();
    group_.record(directDone_, group_.directStream());
    group_.order(group_.workStream(), directDone_);
    group_.edge(Group::doneEdge);
    if (afterNeighbors_) afterNeighbors_();
    group_.record(finished_, group_.workStream());
    group_.order(group_.context().stream(0), finished_);
    group_.waitFor(finished_.get(), "an exchange");
    traffic_.report.stats.nanoseconds = monotonicNs() - started_;
    traffic_.report.stats.started = started_;
    timeline_.report(traffic_.report, traffic_.peers);
    if (traffic_.peers.wait_ns == nullptr) return;
    const Neighbors &neighbors = group_.neighbors();
    for (uint32_t i = 0; i < neighbors.count(); i++) {
      traffic_.peers.wait_ns[neighbors.rankAt[i]] += group_.lateness(i);
    }
  }

 private:
  void startDirect() {
    if (afterFirstRound_) afterFirstRound_();
    afterFirstRound_ = nullptr;
  }

  Plan &plan_;
  Group &group_;
  const fusco_nccl_call call_;
  const OnDevice here_;
  Timeline timeline_;
  Traffic traffic_;
  Mapped mapped_;
  cuda::Event inputs_;
  cuda::Event neighborsReady_;
  cuda::Event directDone_;
  cuda::Event finished_;
  cuda::Event weightsCame_;
  std::function<void()> afterFirstRound_;
  std::function<void()> afterNeighbors_;
  uint8_t *sentWeights_ = nullptr;
  uint8_t *receivedWeights_ = nullptr;
  uint64_t started_ = 0;
};

}  // namespace fusco::nccl
