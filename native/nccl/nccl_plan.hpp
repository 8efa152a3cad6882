// A plan on one rank's device, and the order of its slices.
#pragma once

#include "device_plan.hpp"
#include "nccl_group.hpp"
#include "row_copies.hpp"

namespace fusco::nccl {

// Rounds that are packed, on the wire or being unpacked at the same time: segments of a ring.
constexpr uint32_t ringDepth = 3;

// A route cut into rounds.
struct Schedule {
  uint32_t sliceRows = 0;
  std::vector<Round> rounds;
  uint32_t mostSent = 0;  // rows of one round
  uint32_t mostReceived = 0;
};

// A direction of rows between the local rank and ranks that it does not reach directly.
class Route {
 public:
  // `mostRuns`: of one peer's send order on any rank.
  Route(const Neighbors &neighbors, const SendOrder &send, const SendOrder &receive, const SliceRule &rule,
        uint32_t mostRuns)
      : neighbors_(neighbors), send_(send), receive_(receive), rule_(rule), mostRuns_(mostRuns) {}

  // The same rows on their way back.
  Route reversed() const { return {neighbors_, receive_, send_, rule_, mostRuns_}; }

  const SendOrder &send() const { return send_; }
  const SendOrder &receive() const { return receive_; }
  bool isEmpty() const { return send_.total() == 0 && receive_.total() == 0; }
  // Whether rows of `rowBytes`, all arrays together, travel run by run, from and to where they belong.
  bool inPlace(uint64_t rowBytes) const { return cutsAtRuns(rule_, mostRuns_, rowBytes); }
  // For rows of `rowBytes`, all arrays together. Valid until rows of another length are asked for.
  const Schedule &schedule(uint64_t rowBytes) const;

 private:
  const Neighbors &neighbors_;
  const SendOrder &send_;
  const SendOrder &receive_;
  SliceRule rule_;
  uint32_t mostRuns_;
  mutable Schedule schedule_;
};

// Tables in device memory; pointers into one allocation.
struct WireTables {
  cuda::DeviceTables direct{};    // places of `direct`
  cuda::DeviceTables once{};      // places of `directOnce`, or of `direct` if there are none
  cuda::DeviceTables returned{};  // places of `returned`
  uint32_t *barrier = nullptr;
  const uint32_t *entryOrder = nullptr;
  const uint32_t *arrivalSlot = nullptr;  // slots in the order of entryReceive
  const uint32_t *rowOrder = nullptr;
  const uint32_t *placeEntry = nullptr;
  const uint32_t *sumOffset = nullptr;
  const SumTerm *sumTerms = nullptr;
  const uint32_t *landedOffset = nullptr;
  const Place *landedPlaces = nullptr;
  const SumTerm *landedTerms = nullptr;
  // What is left of the places of landed rows if each neighbor gets a row once.
  const uint32_t *onceOffset = nullptr;
  const Place *oncePlaces = nullptr;
  // Of RowCopies.
  const uint32_t *copyFrom = nullptr;
  const uint32_t *copyOffset = nullptr;
  const Place *copyPlaces = nullptr;
  cuda::OnePassTables onePass{};
};

// What exchanges need of a plan that was made on the device. `sizes` is the local rank's.
struct DeviceMadePlan {
  fusco_plan sizes;
  cuda::PlanMemory memory;
  uint64_t bytes;  // of the plan buffer
  uint32_t maxTokens;
  uint64_t allTokens;
  uint32_t mostLandingRows;
};

class Plan {
 public:
  // Slots from `maxRecvRows` on behave as dropped.
  Plan(std::shared_ptr<Group> group, const fusco_nccl_call &call, const fusco_nccl_plan_desc &desc,
       uint32_t maxRecvRows = FUSCO_MAX_ROWS);
  // All ranks are on one machine.
  Plan(std::shared_ptr<Group> group, const DeviceMadePlan &made);
  ~Plan();
  Plan(const Plan &) = delete;
  Plan &operator=(const Plan &) = delete;

  Group &group() const { return *group_; }
  const RankTables &tables() const { return tables_; }
  const fusco_plan &sizes() const { return tables_.sizes; }
  // Of a plan that was made on the device, before each exchange.
  fusco_plan &sizesOfCall() { return tables_.sizes; }
  const WireTables &device() const { return device_; }
  const Route &entriesOut() const { return entriesOut_; }
  const Route &entriesBack() const { return entriesBack_; }
  const Route &rowsOut() const { return rowsOut_; }
  const Route &rowsBack() const { return rowsBack_; }
  // Kept entries whose rows go straight into neighbors' memory.
  uint64_t directRows() const { return sizes().kept - tables_.entrySend.total(); }
  // [neighbors]: rows of its buffer that this rank touches.
  const std::vector<uint32_t> &reach() const { return tables_.reach; }
  uint64_t placesSent() const { return placesSentTotal_; }
  uint64_t placesReceived() const { return landing_.places.size(); }
  const std::vector<uint64_t> &weightBytesSent() const { return weightBytesSent_; }
  const std::vector<uint64_t> &weightBytesReceived() const { return weightBytesReceived_; }
  uint64_t landingRowBytes(uint64_t rowBytes, uint32_t elementBytes) const;
  bool isOnePass() const { return tables_.isOnePass(); }
  bool sumsPerRank() const { return tables_.sumsPerRank(); }
  // Rows that the local rank copies from the slots in which they arrived to their other slots. Not of
  // one-pass plans.
  uint32_t copiedRows() const { return copiedRows_; }
  // Of one-pass plans: the most tokens of a rank, the tokens of all ranks, and the most partial sums that
  // arrive at a rank.
  uint32_t maxTokens() const { return maxTokens_; }
  uint64_t allTokens() const { return allTokens_; }
  uint32_t mostLandingRows() const { return mostLandingRows_; }
  // Rows that a dispatch of this rank stores to neighbors' memory, itself included.
  uint64_t rowsOnce() const { return rowsOnce_; }
  fusco_nccl_bytes bytes(uint64_t rowBytes) const;

 private:
  fusco_nccl_bytes onePassBytes(uint64_t rowBytes) const;
  void tellForwarders();
  // Tells neighbors which rows they copy on.
  void tellNeighbors();
  // Exchanges what ranks of a one-pass plan must know of one another, and writes its tables.
  void tellPeers();
  void upload();

  std::shared_ptr<Group> group_;
  RankTables tables_;
  Route entriesOut_;
  Route entriesBack_;
  Route rowsOut_;
  Route rowsBack_;
  Landing landing_;
  Landing landedOnce_;  // until it is uploaded
  RowCopies copies_;    // until they are uploaded
  uint32_t copiedRows_ = 0;
  std::vector<uint64_t> weightBytesSent_;
  std::vector<uint64_t> weightBytesReceived_;
  uint64_t placesSentTotal_ = 0;
  uint32_t maxTokens_ = 0;
  uint64_t allTokens_ = 0;
  uint32_t mostLandingRows_ = 0;
  uint64_t rowsOnce_ = 0;
  uint64_t remoteTokens_ = 0;
  WireTables device_;
  std::unique_ptr<Arena> memory_;  // of device_; null: the plan buffer's
  uint64_t memoryBytes_ = 0;
};

// Bytes of one segment of a ring, rounded up.
constexpr uint64_t segmentAlign = 256;
inline uint64_t alignSegment(uint64_t bytes) {
  return (bytes + segmentAlign - 1) / segmentAlign * segmentAlign;
}

}  // namespace fusco::nccl

namespace fusco::nccl {
class BufferedPlan;
}

// A plan that was uploaded, or one that is in a plan buffer: one of the two.
struct fusco_nccl_plan {
  std::shared_ptr<fusco::nccl::Plan> shared;
  std::shared_ptr<fusco::nccl::BufferedPlan> buffered;
};
