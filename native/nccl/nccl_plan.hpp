// A plan on one rank's device, and the order of its slices.
#pragma once

#include "nccl_group.hpp"

namespace fusco::nccl {

// Slices that are packed, on the wire or being scattered at the same time.
constexpr uint32_t ringDepth = 3;

// A route cut into rounds.
struct Schedule {
  uint32_t sliceRows = 0;
  std::vector<Round> rounds;
  uint32_t mostSent = 0;  // rows of one round
  uint32_t mostReceived = 0;
};

// A direction of rows between this rank and ranks of other hosts.
class Route {
 public:
  // `mostRuns` of one peer's stream on any rank.
  Route(const Neighbors &near, const SendOrder &send, const SendOrder &receive, const SliceRule &rule,
        uint32_t mostRuns)
      : near_(near), send_(send), receive_(receive), rule_(rule), mostRuns_(mostRuns) {}

  const SendOrder &send() const { return send_; }
  const SendOrder &receive() const { return receive_; }
  bool isEmpty() const { return send_.total() == 0 && receive_.total() == 0; }
  // Whether rows of so many bytes, all arrays together, travel run by run, from and to where they belong.
  bool inPlace(uint64_t rowBytes) const { return cutsAtRuns(rule_, mostRuns_, rowBytes); }
  // For rows of so many bytes, all arrays together. Kept until rows of another length are asked for.
  const Schedule &schedule(uint64_t rowBytes) const;

 private:
  const Neighbors &near_;
  const SendOrder &send_;
  const SendOrder &receive_;
  SliceRule rule_;
  uint32_t mostRuns_;
  mutable Schedule schedule_;
};

// Tables in device memory; views and pointers into one allocation.
struct WireTables {
  cuda::DeviceTables direct{};    // places of `direct`
  cuda::DeviceTables returned{};  // places of `returned`
  uint32_t *meeting = nullptr;
  const uint32_t *entryStream = nullptr;
  const uint32_t *arrivalSlot = nullptr;  // slots in the order of entryReceive
  const uint32_t *rowStream = nullptr;
  const uint32_t *placeEntry = nullptr;
  const uint32_t *homeOffset = nullptr;
  const SumTerm *homeTerms = nullptr;
  const uint32_t *landedOffset = nullptr;
  const Place *landedPlaces = nullptr;
  const SumTerm *landedTerms = nullptr;
};

class Plan {
 public:
  Plan(std::shared_ptr<Group> group, const fusco_nccl_step &call, const fusco_nccl_plan_desc &desc);
  ~Plan();
  Plan(const Plan &) = delete;
  Plan &operator=(const Plan &) = delete;

  Group &group() const { return *group_; }
  const RankTables &tables() const { return tables_; }
  const fusco_plan &sizes() const { return tables_.sizes; }
  const WireTables &device() const { return device_; }
  const Route &entriesOut() const { return entriesOut_; }
  const Route &entriesHome() const { return entriesHome_; }
  const Route &rowsOut() const { return rowsOut_; }
  const Route &rowsHome() const { return rowsHome_; }
  // Rows that this rank touches at each neighbor.
  const std::vector<uint32_t> &reach() const { return tables_.reach; }
  uint64_t placesSent() const { return placesSentTotal_; }
  uint64_t placesReceived() const { return landing_.places.size(); }
  const std::vector<uint64_t> &weightBytesSent() const { return weightBytesSent_; }
  const std::vector<uint64_t> &weightBytesReceived() const { return weightBytesReceived_; }
  uint64_t landingRowBytes(uint64_t rowBytes, uint32_t elementBytes) const;
  fusco_nccl_bytes bytes(uint64_t rowBytes) const;

 private:
  void tellForwarders();
  void upload();

  std::shared_ptr<Group> group_;
  RankTables tables_;
  Route entriesOut_;
  Route entriesHome_;
  Route rowsOut_;
  Route rowsHome_;
  Landing landing_;
  std::vector<uint64_t> weightBytesSent_;
  std::vector<uint64_t> weightBytesReceived_;
  uint64_t placesSentTotal_ = 0;
  WireTables device_;
  uint8_t *memory_ = nullptr;
  uint64_t memoryBytes_ = 0;
};

// One place of a ring.
constexpr uint64_t slotAlign = 256;
inline uint64_t alignSlot(uint64_t bytes) { return (bytes + slotAlign - 1) / slotAlign * slotAlign; }

}  // namespace fusco::nccl

struct fusco_nccl_plan {
  std::shared_ptr<fusco::nccl::Plan> shared;
};
