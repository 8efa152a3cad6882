// Rows on the wire in slices, while earlier ones are sent, received and put to their places.
#pragma once

#include <functional>

#include "nccl_plan.hpp"

namespace fusco::nccl {

// Part of a round that concerns kernels: rows of the whole stream and where they lie in the slot.
Ranges rangesOf(const SendOrder &stream, const std::vector<Slice> &slices);

// One array of a transfer. Its rows are packed into a slot or sent in place, and received in place or into a
// slot that is emptied at once.
struct SendRecvPhase {
  uint64_t rowBytes = 0;
  std::function<void(const Ranges &ranges, uint8_t *slot)> pack;  // on packing(); or
  const uint8_t *from = nullptr;                                  // rows numbered as the sending runs are
  std::function<void(const Ranges &ranges, const uint8_t *slot)> unpack;  // on work(); or
  uint8_t *to = nullptr;  // rows numbered as the receiving runs are
};

// When packing and the wire were busy, for the report; measured where peers are asked for.
class Timeline {
 public:
  Timeline(Group &group, bool isOn) : group_(group), isOn_(isOn) {}

  struct Span {
    cuda::Event begin;
    cuda::Event end;
  };
  void beginPack() { begin(packs_, group_.packing()); }
  void endPack() { end(packs_, group_.packing()); }
  void beginRound(const Round &round);
  void endRound() { end(rounds_, group_.wire()); }

  // After the exchange.
  void report(fusco_nccl_report &report, const fusco_nccl_peers *peers);

 private:
  void begin(std::vector<Span> &spans, cudaStream_t stream);
  void end(std::vector<Span> &spans, cudaStream_t stream);

  Group &group_;
  bool isOn_;
  std::vector<Span> packs_;
  std::vector<Span> rounds_;
  std::vector<std::vector<uint32_t>> peersOfRound_;
};

// Counts what a transfer sent and received.
struct Traffic {
  fusco_nccl_report *report;
  const fusco_nccl_peers *peers;
};

// Of all arrays: it is alike on all ranks, so that all cut alike.
uint64_t rowBytesOf(const std::vector<SendRecvPhase> &legs);

// Makes the rings large enough; before anything is enqueued, since growing waits for the device.
void reserve(Group &group, const Route &route, const std::vector<SendRecvPhase> &legs);

/*
 * Runs all rounds of a route for these arrays; enqueues, and returns when the last round is on its stream.
 * Packing may start when packing() has reached this call, the wire when wire() has, and unpacking when work()
 * has. Afterwards work() is behind all of it, and another transfer may follow. `started` is called once the
 * first round has been launched.
 */
void transfer(Plan &plan, const Route &route, const std::vector<SendRecvPhase> &legs, Timeline &timeline,
              const Traffic &traffic, const std::function<void()> &started);

}  // namespace fusco::nccl
