#include "nccl_plan.hpp"

#include <algorithm>
#include <cstring>

#include "failure.hpp"

namespace fusco::nccl {

using cuda::DevicePlanHead;
using cuda::Hole;
using cuda::OnDevice;

const Schedule &Route::schedule(uint64_t rowBytes) const {
  const uint32_t sliceRows = sliceRowsFor(rule_, near_.ranks, rowBytes);
  if (schedule_.sliceRows == sliceRows) return schedule_;
  Schedule made;
  made.sliceRows = sliceRows;
  made.rounds = makeRounds(near_.rank, send_, receive_, sliceRows, rule_.peersPerRound);
  for (const Round &round : made.rounds) {
    made.mostSent = std::max(made.mostSent, round.sendRows);
    made.mostReceived = std::max(made.mostReceived, round.receiveRows);
  }
  schedule_ = std::move(made);
  return schedule_;
}

namespace {

// Rules for entries and for forwarded rows, of what all ranks agree on.
SliceRule entryRule(const Group &group, const fusco_nccl_plan_desc &desc) {
  return {desc.slice_rows, desc.most_entries, group.roundBytes(), maxPeersPerRound};
}
SliceRule rowRule(const Group &group, const fusco_nccl_plan_desc &desc) {
  return {desc.slice_rows, desc.most_forwarded, group.roundBytes(), maxPeersPerRound};
}

// A run for each expert instance of the rank that hosts the most.
uint32_t mostRuns(const Neighbors &near, const fusco_nccl_plan_desc &desc) {
  uint32_t most = 1;
  for (uint32_t rank = 0; rank < near.ranks; rank++) {
    most = std::max(most, desc.first_instance[rank + 1] - desc.first_instance[rank]);
  }
  return most;
}

}  // namespace

Plan::Plan(std::shared_ptr<Group> group, const fusco_nccl_step &call, const fusco_nccl_plan_desc &desc)
    : group_(std::move(group)),
      tables_(desc, group_->near()),
      entriesOut_(group_->near(), tables_.entrySend, tables_.entryReceive, entryRule(*group_, desc),
                  mostRuns(group_->near(), desc)),
      entriesHome_(group_->near(), tables_.entryReceive, tables_.entrySend, entryRule(*group_, desc),
                   mostRuns(group_->near(), desc)),
      rowsOut_(group_->near(), tables_.rowSend, tables_.rowReceive, rowRule(*group_, desc), 1),
      rowsHome_(group_->near(), tables_.rowReceive, tables_.rowSend, rowRule(*group_, desc), 1) {
  tables_.sizes.context = group_->context().host;
  const OnDevice here(group_->device());
  group_->enter(call);
  if (tables_.forwards) tellForwarders();
  upload();
}

Plan::~Plan() {
  const OnDevice here(group_->device());
  for (const cudaStream_t stream : {group_->packing(), group_->wire(), group_->work(), group_->direct()}) {
    cudaStreamSynchronize(stream);
  }
  cudaFree(memory_);
  (void)cudaGetLastError();
}

namespace {

// Sums of `values` over each peer's rows, times `size`.
std::vector<uint64_t> bytesByPeer(const SendOrder &stream, const std::vector<uint32_t> &values,
                                  uint64_t size) {
  std::vector<uint64_t> bytes(stream.ranks(), 0);
  for (uint32_t peer = 0; peer < stream.ranks(); peer++) {
    for (uint32_t i = 0; i < stream.rows(peer); i++) bytes[peer] += values[stream.start(peer) + i] * size;
  }
  return bytes;
}

std::vector<uint64_t> rowBytesByPeer(const SendOrder &stream, uint64_t size) {
  std::vector<uint64_t> bytes(stream.ranks());
  for (uint32_t peer = 0; peer < stream.ranks(); peer++) bytes[peer] = stream.rows(peer) * size;
  return bytes;
}

// Sends host arrays to peers and returns what they sent.
template <class T>
std::vector<T> swapped(Group &group, const std::vector<T> &own, const std::vector<uint64_t> &sendBytes,
                       const std::vector<uint64_t> &receiveBytes) {
  uint64_t received = 0;
  for (const uint64_t bytes : receiveBytes) received += bytes;
  std::vector<T> result(received / sizeof(T));
  uint8_t *from = group.arena(Use::sendRing).atLeast(own.size() * sizeof(T) + 1);
  uint8_t *to = group.arena(Use::receiveRing).atLeast(received + 1);
  cuda::Event done;
  done.create(group.device(), false);
  group.must(cudaMemcpyAsync(from, own.data(), own.size() * sizeof(T), cudaMemcpyHostToDevice, group.wire()),
             "sending what forwarders need to know");
  group.swap(from, sendBytes, to, receiveBytes);
  group.must(cudaMemcpyAsync(result.data(), to, received, cudaMemcpyDeviceToHost, group.wire()),
             "reading what sources say");
  group.record(done, group.wire());
  group.waitFor(done.get(), "telling forwarders what to do");
  return result;
}

}  // namespace

void Plan::tellForwarders() {
  const auto counts = swapped(*group_, tables_.rowEntries, rowBytesByPeer(tables_.rowSend, sizeof(uint32_t)),
                              rowBytesByPeer(tables_.rowReceive, sizeof(uint32_t)));
  for (uint32_t source = 0, row = 0; source < group_->near().ranks; source++) {
    for (uint32_t i = 0; i < tables_.rowReceive.rows(source); i++, row++) {
      if (counts[row] >= 1 && counts[row] <= sizes().topk) continue;
      throw Failure(FUSCO_E_PEER_MISMATCH, "rank %u sent a forwarded row with %u places", source, counts[row])
          .atRank(source);
    }
  }
  weightBytesSent_ = bytesByPeer(tables_.rowSend, tables_.rowEntries, sizeof(float));
  weightBytesReceived_ = bytesByPeer(tables_.rowReceive, counts, sizeof(float));
  placesSentTotal_ = tables_.placeEntry.size();
  const auto places =
      swapped(*group_, tables_.placeOf, bytesByPeer(tables_.rowSend, tables_.rowEntries, sizeof(Place)),
              bytesByPeer(tables_.rowReceive, counts, sizeof(Place)));
  landing_ = readLanding(group_->near(), tables_.rowReceive, sizes().topk, sizes().ranksPerNode, counts,
                         places, tables_.reach);
}

namespace {

// Collects tables of the host in one block of memory, and says where each begins.
class Packer {
 public:
  template <class T>
  uint64_t add(const std::vector<T> &values) {
    const uint64_t at = alignSlot(bytes_.size());
    bytes_.resize(at + values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(bytes_.data() + at, values.data(), values.size() * sizeof(T));
    return at;
  }
  const std::vector<uint8_t> &bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

}  // namespace

void Plan::upload() {
  const RankPlan &part = sizes().rank[0];
  const Neighbors &near = group_->near();
  std::vector<DevicePlanHead> head(1);
  head[0] = {};
  head[0].topk = sizes().topk;
  head[0].localRanks = 1;
  head[0].tokens = part.tokens;
  head[0].holes = static_cast<uint32_t>(part.padding.size());
  head[0].ranksPerNode = sizes().ranksPerNode;
  head[0].rankOf[0] = near.self;
  head[0].originOf[0] = near.rank;
  head[0].tokenStart[1] = part.tokens;
  std::vector<Hole> holes;
  for (const RowRange &range : part.padding) holes.push_back({near.self, range.first, range.rows});
  std::vector<SumTerm> landedTerms;
  for (size_t i = 0; i < landing_.places.size(); i++) {
    const Place place = landing_.places[i];
    landedTerms.push_back({place.peer, static_cast<uint32_t>(place.row), static_cast<uint32_t>(i), 0});
  }

  std::vector<uint32_t> arrivalSlot;
  for (uint32_t peer = 0; peer < near.ranks; peer++) {
    for (const Run &run : tables_.entryReceive.runs(peer)) {
      for (uint32_t i = 0; i < run.rows; i++) arrivalSlot.push_back(static_cast<uint32_t>(run.first + i));
    }
  }

  Packer packer;
  const uint64_t headAt = packer.add(head);
  const uint64_t meetingAt = packer.add(std::vector<uint32_t>(2, 0));
  const uint64_t directAt = packer.add(tables_.direct);
  const uint64_t returnedAt = packer.add(tables_.returned);
  const uint64_t holesAt = packer.add(holes);
  const uint64_t entryStreamAt = packer.add(tables_.entryStream);
  const uint64_t arrivalSlotAt = packer.add(arrivalSlot);
  const uint64_t rowStreamAt = packer.add(tables_.rowStream);
  const uint64_t placeEntryAt = packer.add(tables_.placeEntry);
  const uint64_t homeOffsetAt = packer.add(tables_.home.offset);
  const uint64_t homeTermsAt = packer.add(tables_.home.terms);
  const uint64_t landedOffsetAt = packer.add(landing_.offset);
  const uint64_t landedPlacesAt = packer.add(landing_.places);
  const uint64_t landedTermsAt = packer.add(landedTerms);
  memoryBytes_ = packer.bytes().size();
  {
    const std::lock_guard<std::mutex> lock(group_->context().mutex);
    memory_ = static_cast<uint8_t *>(group_->context().allocRaw(0, memoryBytes_));
  }
  group_->must(cudaMemcpy(memory_, packer.bytes().data(), memoryBytes_, cudaMemcpyHostToDevice),
               "uploading a plan");

  const auto at = [&](auto *type, uint64_t offset) {
    return reinterpret_cast<decltype(type)>(memory_ + offset);
  };
  device_.direct.head = at(static_cast<const DevicePlanHead *>(nullptr), headAt);
  device_.direct.place = at(static_cast<const Place *>(nullptr), directAt);
  device_.direct.holes = at(static_cast<const Hole *>(nullptr), holesAt);
  device_.returned = device_.direct;
  device_.returned.place = at(static_cast<const Place *>(nullptr), returnedAt);
  device_.meeting = at(static_cast<uint32_t *>(nullptr), meetingAt);
  device_.entryStream = at(static_cast<const uint32_t *>(nullptr), entryStreamAt);
  device_.arrivalSlot = at(static_cast<const uint32_t *>(nullptr), arrivalSlotAt);
  device_.rowStream = at(static_cast<const uint32_t *>(nullptr), rowStreamAt);
  device_.placeEntry = at(static_cast<const uint32_t *>(nullptr), placeEntryAt);
  device_.homeOffset = at(static_cast<const uint32_t *>(nullptr), homeOffsetAt);
  device_.homeTerms = at(static_cast<const SumTerm *>(nullptr), homeTermsAt);
  device_.landedOffset = at(static_cast<const uint32_t *>(nullptr), landedOffsetAt);
  device_.landedPlaces = at(static_cast<const Place *>(nullptr), landedPlacesAt);
  device_.landedTerms = at(static_cast<const SumTerm *>(nullptr), landedTermsAt);

  // The host keeps what it looks at while it runs: streams, rounds and sizes.
  tables_.direct = {};
  tables_.returned = {};
  tables_.entryStream = {};
  tables_.rowStream = {};
  tables_.placeEntry = {};
  tables_.placeOf = {};
  tables_.rowEntries = {};
  tables_.home = {};
}

uint64_t Plan::landingRowBytes(uint64_t rowBytes, uint32_t elementBytes) const {
  return sizes().tree == Tree::kept ? rowBytes / elementBytes * sizeof(float) : rowBytes;
}

fusco_nccl_bytes Plan::bytes(uint64_t rowBytes) const {
  const Schedule &out = (tables_.forwards ? rowsOut_ : entriesOut_).schedule(rowBytes);
  fusco_nccl_bytes result{};
  result.tables = memoryBytes_;
  const bool arrivesInRing = tables_.forwards || !entriesOut_.inPlace(rowBytes);
  result.dispatch = ringDepth * alignSlot(out.mostSent * rowBytes);
  if (arrivesInRing) result.dispatch += ringDepth * alignSlot(out.mostReceived * rowBytes);
  // Partial sums are kept in float32 at most: twice the bytes of a 16-bit payload.
  const uint64_t partial = sizes().tree == Tree::kept ? 2 * rowBytes : rowBytes;
  if (tables_.forwards) {
    result.combine = ringDepth * alignSlot(rowsHome_.schedule(partial).mostSent * partial) +
                     tables_.rowSend.total() * partial;
  } else {
    result.combine = tables_.entrySend.total() * rowBytes;
    if (!entriesHome_.inPlace(rowBytes)) {
      result.combine += ringDepth * alignSlot(entriesHome_.schedule(rowBytes).mostSent * rowBytes);
    }
  }
  return result;
}

}  // namespace fusco::nccl
