// Rows on the wire in rounds, while earlier rounds are sent, received and stored at their places. All calls
// of ncclSend and ncclRecv for rows are in transfer.cc.
#pragma once

#include <functional>
#include <set>

#include "nccl_plan.hpp"

namespace fusco::nccl {

// One array of rows that a transfer sends and receives. Its rows are packed into a ring segment or sent in
// place, and received in place or into a ring segment that is unpacked at once. All addresses are device
// memory.
struct SendRecvPhase {
  uint64_t rowBytes = 0;
  // Enqueues, on `stream`, rows `ranges` of the route's send order into `segment`, rowBytes each; or, if
  // null, rows are sent from `from`, numbered as the sending runs are.
  std::function<cudaError_t(const Ranges &ranges, uint8_t *segment, cudaStream_t stream)> pack;
  const uint8_t *from = nullptr;
  // Enqueues, on `stream`, what becomes of rows `ranges` of the route's receive order, which are in
  // `segment`; or, if null, rows are received at `to`, numbered as the receiving runs are.
  std::function<cudaError_t(const Ranges &ranges, const uint8_t *segment, cudaStream_t stream)> unpack;
  uint8_t *to = nullptr;
};

// SendRecvPhase::pack by one kernel. `params` has everything but the ranges and the segment.
template <class Params>
auto packedBy(cudaError_t (*launch)(const Params &, cudaStream_t), Params params) {
  return [launch, params](const Ranges &ranges, uint8_t *segment, cudaStream_t stream) mutable {
    params.ranges = ranges;
    params.to = segment;
    return launch(params, stream);
  };
}

// When packing and the wire were busy, for the report; measured only if it is asked for.
class Timeline {
 public:
  Timeline(Group &group, bool isOn) : group_(group), isOn_(isOn) {}

  // Calls `work`, which enqueues packing on packStream().
  void pack(const std::function<void()> &work) { measure(packs_, group_.packStream(), work); }
  // Group::round for a round of a transfer.
  void round(const Round &round, const std::function<void()> &issue);

  // After the exchange. Adds to the report, and to the peers' times if there is an array for them.
  void report(fusco_nccl_report &report, const fusco_nccl_peers &peers);

 private:
  struct Span {
    cuda::Event begin;
    cuda::Event end;
    std::set<uint32_t> peers;  // of a round
  };
  void measure(std::vector<Span> &spans, cudaStream_t stream, const std::function<void()> &work);

  Group &group_;
  bool isOn_;
  std::vector<Span> packs_;
  std::vector<Span> rounds_;
};

// Where a transfer counts what it sent and received. The arrays of `peers` may be null.
struct Traffic {
  fusco_nccl_report &report;
  fusco_nccl_peers peers;
};

// Bytes of one row in all arrays together. The same on all ranks, so that all cut the same slices.
uint64_t rowBytesOf(const std::vector<SendRecvPhase> &phases);

// Makes the rings of the group large enough for a transfer. Call it before anything of the exchange is
// enqueued: growing waits for the device.
void reserve(Group &group, const Route &route, const std::vector<SendRecvPhase> &phases);

/*
 * Enqueues all rounds of a route for these arrays, and returns when the last one has been launched; rows are
 * in place later, in the order of the streams. Collective: all ranks call it for the same route with the same
 * row sizes.
 *
 * Before: packing sees what packStream() is ordered behind, sends and receives in place see wireStream(),
 * unpacking sees workStream(). After: workStream() is behind all sends, receives and unpacking, and another
 * transfer may follow. `started` is called on this thread when the first round has been launched, and not at
 * all without rounds. Throws E_BACKEND, E_PEER_TIMEOUT.
 */
void transfer(Plan &plan, const Route &route, const std::vector<SendRecvPhase> &phases, Timeline &timeline,
              Traffic &traffic, const std::function<void()> &started);

}  // namespace fusco::nccl
