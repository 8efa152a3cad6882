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
    uint64_t at = slice.at;
    const auto message = [&](Run run) {
      uint8_t *address = segment != nullptr ? segment + at * rowBytes : inPlace + run.first * rowBytes;
      issue(slice.peer, address, run.rows * rowBytes);
      at += run.rows;
    };
    if (cut) {
      sendOrder.forEachPiece(slice.peer, slice.first, slice.rows, message);
    } else {
      // Rows that are in place are then one run of landing rows.
      message({sendOrder.start(slice.peer) + slice.first, slice.rows});
    }
  }
}

double msBetween(const cuda::Event &begin, const cuda::Event &end) {
  float ms = 0;
  return cudaEventElapsedTime(&ms, begin.get(), end.get()) == cudaSuccess ? ms : 0;
}

uint64_t nsOf(double ms) { return ms <= 0 ? 0 : static_cast<uint64_t>(ms * 1e6); }

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

uint64_t rowBytesOf(const std::vector<SendRecvPhase> &phases) {
  uint64_t bytes = 0;
  for (const SendRecvPhase &phase : phases) bytes += phase.rowBytes;
  return bytes;
}

void Timeline::measure(std::vector<Span> &spans, cudaStream_t stream, const std::function<void()> &work) {
  if (!isOn_) return work();
  Span &span = spans.emplace_back();
  span.begin.create(group_.device(), cuda::Timing::on);
  span.end.create(group_.device(), cuda::Timing::on);
  group_.record(span.begin, stream);
  work();
  group_.record(span.end, stream);
}

void Timeline::round(const Round &round, const std::function<void()> &issue) {
  measure(rounds_, group_.wireStream(), [&] { group_.round(issue); });
  if (!isOn_) return;
  for (const Slice &slice : round.send) rounds_.back().peers.insert(slice.peer);
  for (const Slice &slice : round.receive) rounds_.back().peers.insert(slice.peer);
}

void Timeline::report(fusco_nccl_report &report, const fusco_nccl_peers &peers) {
  if (packs_.empty() && rounds_.empty()) return;
  // All times are told from the first event of either kind.
  const cuda::Event &origin = packs_.empty() ? rounds_.front().begin : packs_.front().begin;
  const auto at = [&](const cuda::Event &event) { return msBetween(origin, event); };
  double packMs = 0;
  double hiddenMs = 0;
  double wireMs = 0;
  for (const Span &pack : packs_) {
    packMs += at(pack.end) - at(pack.begin);
    for (const Span &round : rounds_) {
      const double from = std::max(at(pack.begin), at(round.begin));
      hiddenMs += std::max(0.0, std::min(at(pack.end), at(round.end)) - from);
    }
  }
  for (const Span &round : rounds_) {
    const double taken = at(round.end) - at(round.begin);
    wireMs += taken;
    if (peers.nccl_ns == nullptr) continue;
    for (const uint32_t peer : round.peers) peers.nccl_ns[peer] += nsOf(taken);
  }
  report.pack_ns += nsOf(packMs);
  report.pack_hidden_ns += nsOf(hiddenMs);
  report.nccl_ns += nsOf(wireMs);
}

namespace {

// A route's rounds, and its rings for these arrays.
struct Rings {
  const Schedule &schedule;
  std::vector<uint64_t> sendAt;
  std::vector<uint64_t> receiveAt;
  uint8_t *send;
  uint8_t *receive;

  Rings(Group &group, const Route &route, const std::vector<SendRecvPhase> &phases)
      : schedule(route.schedule(rowBytesOf(phases))),
        sendAt(layOut(phases, schedule.mostSent, true)),
        receiveAt(layOut(phases, schedule.mostReceived, false)),
        send(group.arena(Use::sendRing).atLeast(ringDepth * sendAt.back())),
        receive(group.arena(Use::receiveRing).atLeast(ringDepth * receiveAt.back())) {}

  // Where a phase's rows of a round are packed, and where they arrive.
  uint8_t *packedAt(size_t round, size_t phase) const {
    return send + round % ringDepth * sendAt.back() + sendAt[phase];
  }
  uint8_t *arrivedAt(size_t round, size_t phase) const {
    return receive + round % ringDepth * receiveAt.back() + receiveAt[phase];
  }
};

}  // namespace

void reserve(Group &group, const Route &route, const std::vector<SendRecvPhase> &phases) {
  if (!route.isEmpty() && !phases.empty()) Rings(group, route, phases);
}

void transfer(Plan &plan, const Route &route, const std::vector<SendRecvPhase> &phases, Timeline &timeline,
              Traffic &traffic, const std::function<void()> &started) {
  if (route.isEmpty() || phases.empty()) return;
  Group &group = plan.group();
  const bool cut = route.inPlace(rowBytesOf(phases));
  const Rings rings(group, route, phases);
  const std::vector<Round> &rounds = rings.schedule.rounds;
  const bool packs = rings.sendAt.back() > 0;
  const bool unpacks = rings.receiveAt.back() > 0;
  RingEvents packed(group.device());
  RingEvents arrived(group.device());
  RingEvents emptied(group.device());
  const auto send = [&](uint32_t peer, const uint8_t *from, uint64_t bytes) {
    group.send(from, bytes, peer);
    traffic.report.sends++;
    traffic.report.nccl_sent += bytes;
    if (traffic.peers.sent_bytes != nullptr) traffic.peers.sent_bytes[peer] += bytes;
  };
  const auto receive = [&](uint32_t peer, uint8_t *to, uint64_t bytes) {
    group.receive(to, bytes, peer);
    traffic.report.nccl_received += bytes;
    if (traffic.peers.received_bytes != nullptr) traffic.peers.received_bytes[peer] += bytes;
  };

  for (size_t number = 0; number < rounds.size(); number++) {
    const Round &round = rounds[number];
    if (packs && !round.send.empty()) {
      if (number >= ringDepth) group.order(group.packStream(), arrived.at(number));
      const Ranges ranges = rangesOf(route.send(), round.send);
      timeline.pack([&] {
        for (size_t i = 0; i < phases.size(); i++) {
          if (phases[i].pack == nullptr) continue;
          group.must(phases[i].pack(ranges, rings.packedAt(number, i), group.packStream()), "packing rows");
        }
      });
      group.record(packed.at(number), group.packStream());
      group.order(group.wireStream(), packed.at(number));
    }
    if (unpacks && number >= ringDepth) group.order(group.wireStream(), emptied.at(number));
    timeline.round(round, [&] {
      for (size_t i = 0; i < phases.size(); i++) {
        const SendRecvPhase &phase = phases[i];
        uint8_t *out = phase.pack != nullptr ? rings.packedAt(number, i) : nullptr;
        uint8_t *in = phase.unpack != nullptr ? rings.arrivedAt(number, i) : nullptr;
        forEachMessage(route.send(), round.send, phase.rowBytes, cut, out, const_cast<uint8_t *>(phase.from),
                       send);
        forEachMessage(route.receive(), round.receive, phase.rowBytes, cut, in, phase.to, receive);
      }
    });
    if (number == 0) started();
    traffic.report.rounds++;
    group.record(arrived.at(number), group.wireStream());
    if (!unpacks) continue;
    group.order(group.workStream(), arrived.at(number));
    const Ranges ranges = rangesOf(route.receive(), round.receive);
    for (size_t i = 0; i < phases.size(); i++) {
      if (phases[i].unpack == nullptr) continue;
      group.must(phases[i].unpack(ranges, rings.arrivedAt(number, i), group.workStream()), "unpacking rows");
    }
    group.record(emptied.at(number), group.workStream());
  }
  // Another transfer may follow and use the rings again.
  const size_t last = rounds.size() - 1;
  group.order(group.workStream(), arrived.at(last));
  group.order(group.packStream(), arrived.at(last));
  if (unpacks) group.order(group.wireStream(), emptied.at(last));
}

}  // namespace fusco::nccl
