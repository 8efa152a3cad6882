#include "transfer.hpp"

#include <algorithm>
#include <array>

namespace fusco::nccl {

namespace {

// An event for each segment of a ring.
struct RingEvents {
  std::array<cuda::Event, ringDepth> events;
  explicit RingEvents(uint32_t device) {
    for (cuda::Event &event : events) event.create(device, cuda::Timing::off);
  }
  const cuda::Event &at(size_t round) const { return events[round % ringDepth]; }
};

// Where each phase's rows begin in a segment; the last element is the bytes of a segment.
std::vector<uint64_t> layOut(const std::vector<SendRecvPhase> &phases, uint32_t rows, bool sending) {
  std::vector<uint64_t> offsets{0};
  for (const SendRecvPhase &phase : phases) {
    const bool inSegment = sending ? phase.pack != nullptr : phase.unpack != nullptr;
    offsets.push_back(offsets.back() + (inSegment ? alignSegment(rows * phase.rowBytes) : 0));
  }
  return offsets;
}

// Calls `issue(peer, address, bytes)` for each message of one phase and round. If rows are sent or
// received in place, both sides cut a slice at the ends of the receiving runs, which are as long as the
// sending runs. Otherwise a slice is one message between segments.
template <class F>
void forEachMessage(const SendOrder &sendOrder, const std::vector<Slice> &slices, uint64_t rowBytes, bool cut,
                    uint8_t *segment, uint8_t *inPlace, F issue) {
  for (const Slice &slice : slices) {
    uint64_t done = slice.at;
    if (!cut) {
      // Rows that are in place are then one run of landing rows.
      const uint64_t landed = sendOrder.start(slice.peer) + slice.first;
      uint8_t *address = segment != nullptr ? segment + done * rowBytes : inPlace + landed * rowBytes;
      issue(slice.peer, address, slice.rows * rowBytes);
      continue;
    }
    sendOrder.forEachPiece(slice.peer, slice.first, slice.rows, [&](Run run) {
      uint8_t *address = segment != nullptr ? segment + done * rowBytes : inPlace + run.first * rowBytes;
      issue(slice.peer, address, run.rows * rowBytes);
      done += run.rows;
    });
  }
}

double msBetween(const cuda::Event &begin, const cuda::Event &end) {
  float ms = 0;
  return cudaEventElapsedTime(&ms, begin.get(), end.get()) == cudaSuccess ? ms : 0;
}

uint64_t nsOf(double ms) { return ms <= 0 ? 0 : static_cast<uint64_t>(ms * 1e6); }

}  // namespace

void Traffic::countSent(uint32_t peer, uint64_t bytes) const {
  report->sends++;
  report->nccl_sent += bytes;
  if (peers != nullptr && peers->sent_bytes != nullptr) peers->sent_bytes[peer] += bytes;
}

void Traffic::countReceived(uint32_t peer, uint64_t bytes) const {
  report->nccl_received += bytes;
  if (peers != nullptr && peers->received_bytes != nullptr) peers->received_bytes[peer] += bytes;
}

uint64_t rowBytesOf(const std::vector<SendRecvPhase> &phases) {
  uint64_t bytes = 0;
  for (const SendRecvPhase &phase : phases) bytes += phase.rowBytes;
  return bytes;
}

namespace {

// The slices of a round as kernels see them.
Ranges rangesOf(const SendOrder &sendOrder, const std::vector<Slice> &slices) {
  Ranges ranges;
  for (const Slice &slice : slices) {
    ranges.range[ranges.count++] = {static_cast<uint32_t>(sendOrder.start(slice.peer) + slice.first),
                                    slice.rows, slice.at};
    ranges.rows += slice.rows;
  }
  return ranges;
}

}  // namespace

void Timeline::begin(std::vector<Span> &spans, cudaStream_t stream) {
  if (!isOn_) return;
  Span span;
  span.begin.create(group_.device(), cuda::Timing::on);
  span.end.create(group_.device(), cuda::Timing::on);
  spans.push_back(std::move(span));
  group_.record(spans.back().begin, stream);
}

void Timeline::end(std::vector<Span> &spans, cudaStream_t stream) {
  if (isOn_) group_.record(spans.back().end, stream);
}

void Timeline::beginRound(const Round &round) {
  begin(rounds_, group_.wireStream());
  if (!isOn_) return;
  std::vector<uint32_t> peers;
  for (const Slice &slice : round.send) peers.push_back(slice.peer);
  for (const Slice &slice : round.receive) peers.push_back(slice.peer);
  std::sort(peers.begin(), peers.end());
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  peersOfRound_.push_back(std::move(peers));
}

void Timeline::report(fusco_nccl_report &report, const fusco_nccl_peers *peers) {
  if (!isOn_ || (packs_.empty() && rounds_.empty())) return;
  // All times are told from the first event of either kind.
  const cuda::Event &origin = packs_.empty() ? rounds_.front().begin : packs_.front().begin;
  struct Interval {
    double begin;
    double end;
  };
  const auto intervals = [&](const std::vector<Span> &spans) {
    std::vector<Interval> result;
    for (const Span &span : spans)
      result.push_back({msBetween(origin, span.begin), msBetween(origin, span.end)});
    return result;
  };
  const auto packed = intervals(packs_);
  const auto onWire = intervals(rounds_);
  double packMs = 0;
  double hiddenMs = 0;
  double wireMs = 0;
  for (const Interval &pack : packed) {
    packMs += pack.end - pack.begin;
    for (const Interval &round : onWire) {
      hiddenMs += std::max(0.0, std::min(pack.end, round.end) - std::max(pack.begin, round.begin));
    }
  }
  for (size_t i = 0; i < onWire.size(); i++) {
    const double taken = onWire[i].end - onWire[i].begin;
    wireMs += taken;
    if (peers == nullptr || peers->nccl_ns == nullptr) continue;
    for (const uint32_t peer : peersOfRound_[i]) peers->nccl_ns[peer] += nsOf(taken);
  }
  report.pack_ns += nsOf(packMs);
  report.pack_hidden_ns += nsOf(hiddenMs);
  report.nccl_ns += nsOf(wireMs);
}

void reserve(Group &group, const Route &route, const std::vector<SendRecvPhase> &phases) {
  if (route.isEmpty() || phases.empty()) return;
  const Schedule &schedule = route.schedule(rowBytesOf(phases));
  group.arena(Use::sendRing).atLeast(ringDepth * layOut(phases, schedule.mostSent, true).back());
  group.arena(Use::receiveRing).atLeast(ringDepth * layOut(phases, schedule.mostReceived, false).back());
}

void transfer(Plan &plan, const Route &route, const std::vector<SendRecvPhase> &phases, Timeline &timeline,
              const Traffic &traffic, const std::function<void()> &started) {
  if (route.isEmpty() || phases.empty()) return;
  Group &group = plan.group();
  const Schedule &schedule = route.schedule(rowBytesOf(phases));
  const bool cut = route.inPlace(rowBytesOf(phases));
  const std::vector<uint64_t> sendAt = layOut(phases, schedule.mostSent, true);
  const std::vector<uint64_t> receiveAt = layOut(phases, schedule.mostReceived, false);
  uint8_t *sendRing = group.arena(Use::sendRing).atLeast(ringDepth * sendAt.back());
  uint8_t *receiveRing = group.arena(Use::receiveRing).atLeast(ringDepth * receiveAt.back());
  const bool packs = sendAt.back() > 0;
  const bool unpacks = receiveAt.back() > 0;
  RingEvents packed(group.device());
  RingEvents arrived(group.device());
  RingEvents emptied(group.device());

  for (size_t number = 0; number < schedule.rounds.size(); number++) {
    const Round &round = schedule.rounds[number];
    uint8_t *sendSegment = sendRing + number % ringDepth * sendAt.back();
    uint8_t *receiveSegment = receiveRing + number % ringDepth * receiveAt.back();
    if (packs && !round.send.empty()) {
      if (number >= ringDepth) group.order(group.packStream(), arrived.at(number));
      const Ranges ranges = rangesOf(route.send(), round.send);
      timeline.beginPack();
      for (size_t i = 0; i < phases.size(); i++) {
        if (phases[i].pack != nullptr) phases[i].pack(ranges, sendSegment + sendAt[i]);
      }
      timeline.endPack();
      group.record(packed.at(number), group.packStream());
      group.order(group.wireStream(), packed.at(number));
    }
    if (unpacks && number >= ringDepth) group.order(group.wireStream(), emptied.at(number));
    timeline.beginRound(round);
    group.round([&] {
      for (size_t i = 0; i < phases.size(); i++) {
        const SendRecvPhase &phase = phases[i];
        uint8_t *out = phase.pack != nullptr ? sendSegment + sendAt[i] : nullptr;
        uint8_t *in = phase.unpack != nullptr ? receiveSegment + receiveAt[i] : nullptr;
        forEachMessage(route.send(), round.send, phase.rowBytes, cut, out, const_cast<uint8_t *>(phase.from),
                       [&](uint32_t peer, const uint8_t *from, uint64_t bytes) {
                         group.send(from, bytes, peer);
                         traffic.countSent(peer, bytes);
                       });
        forEachMessage(route.receive(), round.receive, phase.rowBytes, cut, in, phase.to,
                       [&](uint32_t peer, uint8_t *to, uint64_t bytes) {
                         group.receive(to, bytes, peer);
                         traffic.countReceived(peer, bytes);
                       });
      }
    });
    timeline.endRound();
    if (number == 0) started();
    traffic.report->rounds++;
    group.record(arrived.at(number), group.wireStream());
    if (!unpacks) continue;
    group.order(group.workStream(), arrived.at(number));
    const Ranges ranges = rangesOf(route.receive(), round.receive);
    for (size_t i = 0; i < phases.size(); i++) {
      if (phases[i].unpack != nullptr) phases[i].unpack(ranges, receiveSegment + receiveAt[i]);
    }
    group.record(emptied.at(number), group.workStream());
  }
  // Another transfer may follow and use the rings again.
  const size_t last = schedule.rounds.size() - 1;
  group.order(group.workStream(), arrived.at(last));
  group.order(group.packStream(), arrived.at(last));
  if (unpacks) group.order(group.wireStream(), emptied.at(last));
}

}  // namespace fusco::nccl
