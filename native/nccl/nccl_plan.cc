#include "nccl_plan.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "one_pass_tables.hpp"
#include "peer_exchange.hpp"
#include "structs.hpp"

namespace fusco::nccl {

using cuda::DevicePlanHead;
using cuda::OnDevice;
using cuda::PaddingRange;

const Schedule &Route::schedule(uint64_t rowBytes) const {
  const uint32_t sliceRows = sliceRowsFor(rule_, neighbors_.ranks, rowBytes);
  if (schedule_.sliceRows == sliceRows) return schedule_;
  Schedule made;
  made.sliceRows = sliceRows;
  made.rounds = makeRounds(neighbors_.rank, send_, receive_, sliceRows, rule_.peersPerRound);
  for (const Round &round : made.rounds) {
    made.mostSent = std::max(made.mostSent, round.sendRows);
    made.mostReceived = std::max(made.mostReceived, round.receiveRows);
  }
  schedule_ = std::move(made);
  return schedule_;
}

namespace {

// `mostRows`: of entries or of forwarded rows; all ranks agree on it.
SliceRule ruleOf(const Group &group, const fusco_nccl_plan_desc &desc, uint32_t mostRows) {
  return {desc.slice_rows, mostRows, group.roundBytes(), maxPeersPerRound};
}

// A run for each expert instance of the rank that has the most.
uint32_t mostRuns(const Neighbors &neighbors, const fusco_nccl_plan_desc &desc) {
  uint32_t most = 1;
  for (uint32_t rank = 0; rank < neighbors.ranks; rank++) {
    most = std::max(most, desc.first_instance[rank + 1] - desc.first_instance[rank]);
  }
  return most;
}

}  // namespace

Plan::Plan(std::shared_ptr<Group> group, const fusco_nccl_call &call, const fusco_nccl_plan_desc &desc,
           uint32_t maxRecvRows)
    : group_(std::move(group)),
      tables_(desc, group_->neighbors(), maxRecvRows),
      entriesOut_(group_->neighbors(), tables_.entrySend, tables_.entryReceive,
                  ruleOf(*group_, desc, desc.max_entries), mostRuns(group_->neighbors(), desc)),
      entriesBack_(entriesOut_.reversed()),
      rowsOut_(group_->neighbors(), tables_.rowSend, tables_.rowReceive,
               ruleOf(*group_, desc, desc.max_forwarded), 1),
      rowsBack_(rowsOut_.reversed()),
      memory_(group_->takeTables()) {
  tables_.sizes.context = group_->context().host;
  const OnDevice here(group_->device());
  group_->enter(call);
  if (tables_.forwards) tellForwarders();
  if (isOnePass()) {
    tellPeers();
  } else {
    tellNeighbors();
  }
  upload();
  if (isOnePass()) reservePeerMemory(*this, call, desc.row_bytes);
}

Plan::Plan(std::shared_ptr<Group> group, const DeviceMadePlan &made)
    : group_(std::move(group)),
      tables_(made.sizes, group_->neighbors()),
      entriesOut_(group_->neighbors(), tables_.entrySend, tables_.entryReceive, {}, 1),
      entriesBack_(entriesOut_.reversed()),
      rowsOut_(group_->neighbors(), tables_.rowSend, tables_.rowReceive, {}, 1),
      rowsBack_(rowsOut_.reversed()),
      maxTokens_(made.maxTokens),
      allTokens_(made.allTokens),
      mostLandingRows_(made.mostLandingRows),
      memoryBytes_(made.bytes) {
  device_.direct = made.memory.tables;
  device_.barrier = made.memory.barrier;
  device_.onePass = made.memory.onePass;
}

Plan::~Plan() {
  if (memory_ == nullptr) return;
  const OnDevice here(group_->device());
  group_->synchronize();
  group_->keepTables(std::move(memory_));
}

namespace {

// Sums of `values` over each peer's rows, times `size`.
std::vector<uint64_t> bytesByPeer(const SendOrder &sendOrder, const std::vector<uint32_t> &values,
                                  uint64_t size) {
  std::vector<uint64_t> bytes(sendOrder.ranks(), 0);
  for (uint32_t peer = 0; peer < sendOrder.ranks(); peer++) {
    for (uint32_t i = 0; i < sendOrder.rows(peer); i++)
      bytes[peer] += values[sendOrder.start(peer) + i] * size;
  }
  return bytes;
}

uint64_t rowsOf(const Place *first, const Place *end) {
  return static_cast<uint64_t>(std::count_if(first, end, [](const Place &place) { return place.row >= 0; }));
}

constexpr const char *tellingPlaces = "telling ranks where rows go";

// Sends arrays in host memory to peers and returns what they sent.
template <class T>
std::vector<T> swapped(Group &group, const std::vector<T> &local, const std::vector<uint64_t> &sendBytes,
                       const std::vector<uint64_t> &receiveBytes) {
  const uint64_t received = std::accumulate(receiveBytes.begin(), receiveBytes.end(), uint64_t{0});
  std::vector<T> result(received / sizeof(T));
  group.swapOnHost(local.data(), sendBytes, result.data(), receiveBytes, tellingPlaces);
  return result;
}

}  // namespace

void Plan::tellForwarders() {
  const auto counts = swapped(*group_, tables_.rowEntries, tables_.rowSend.bytesByPeer(sizeof(uint32_t)),
                              tables_.rowReceive.bytesByPeer(sizeof(uint32_t)));
  tables_.checkDestinations(counts);
  weightBytesSent_ = bytesByPeer(tables_.rowSend, tables_.rowEntries, sizeof(float));
  weightBytesReceived_ = bytesByPeer(tables_.rowReceive, counts, sizeof(float));
  placesSentTotal_ = tables_.placeEntry.size();
  const auto places =
      swapped(*group_, tables_.placeOf, bytesByPeer(tables_.rowSend, tables_.rowEntries, sizeof(Place)),
              bytesByPeer(tables_.rowReceive, counts, sizeof(Place)));
  landing_ = tables_.readLanding(counts, places);
}

void Plan::tellNeighbors() {
  const Neighbors &neighbors = group_->neighbors();
  const uint32_t self = neighbors.self;
  rowsOnce_ = directRows();
  if (!group_->hasNeighbors()) return;
  const uint32_t topk = sizes().topk;
  ToldCopies told(neighbors.count());
  std::vector<Place> &once = tables_.directOnce;
  once = tables_.direct;
  for (uint64_t token = 0; token < sizes().tokens; token++) {
    keepLowest(once.data() + token * topk, topk, self, told);
  }
  rowsOnce_ = rowsOf(once.data(), once.data() + once.size());
  landedOnce_ = keepLowest(landing_, self, told);
  std::vector<uint32_t> counts, words;
  std::vector<uint64_t> countBytes(neighbors.ranks, 0), sendBytes(neighbors.ranks, 0);
  for (uint32_t i = 0; i < neighbors.count(); i++) {
    if (i == self) continue;
    counts.push_back(static_cast<uint32_t>(told[i].size()));
    words.insert(words.end(), told[i].begin(), told[i].end());
    countBytes[neighbors.rankAt[i]] = sizeof(uint32_t);
    sendBytes[neighbors.rankAt[i]] = told[i].size() * sizeof(uint32_t);
  }
  const std::vector<uint32_t> heardCounts = swapped(*group_, counts, countBytes, countBytes);
  std::vector<bool> isTaken(sizes().rank[0].recvRows, false);
  std::vector<uint64_t> receiveBytes(neighbors.ranks, 0);
  size_t next = 0;
  for (uint32_t rank = 0; rank < neighbors.ranks; rank++) {
    if (countBytes[rank] == 0) continue;
    const uint32_t count = heardCounts[next++];
    if (count > isTaken.size()) {
      throw Failure(FUSCO_E_PEER_MISMATCH,
                    "rank %u sends rows for %u slots to be copied to; rank %u has %llu slots", rank, count,
                    neighbors.rank, isTaken.size())
          .atRank(rank)
          .limited(count, isTaken.size());
    }
    receiveBytes[rank] = count * sizeof(uint32_t);
  }
  const std::vector<uint32_t> heard = swapped(*group_, words, sendBytes, receiveBytes);
  const uint32_t *at = heard.data();
  for (uint32_t rank = 0; rank < neighbors.ranks; rank++) {
    const uint64_t count = receiveBytes[rank] / sizeof(uint32_t);
    copies_.add(rank, at, count, self, isTaken);
    at += count;
  }
}

void Plan::tellPeers() {
  const Neighbors &neighbors = group_->neighbors();
  const uint32_t ranks = neighbors.ranks;
  const uint32_t self = neighbors.rank;
  const uint32_t topk = sizes().topk;
  const RankPlaces places = {tables_.direct.data(), sizes().rank[0].tokens, topk};
  // Tokens and landing rows of each rank.
  struct Facts {
    uint32_t tokens, landingRows;
  };
  std::vector<std::vector<uint32_t>> landingRow(ranks, std::vector<uint32_t>(places.tokens, noSlot));
  const Facts local = {places.tokens, places.numberLandingRows(
                                          ranks, [&](uint32_t rank) { return rank != self; },
                                          [&](uint32_t rank, uint32_t token, uint32_t row) {
                                            landingRow[rank][token] = row;
                                          })};
  std::vector<Facts> facts(ranks);
  group_->gatherOnHost(&local, facts.data(), sizeof local, "gathering the sizes of a plan");
  // What every other rank must know of this rank's tokens: slots [tokens, topk], then landing rows [tokens].
  const uint64_t words = uint64_t{places.tokens} * (topk + 1);
  auto *told = reinterpret_cast<uint32_t *>(
      group_->arena(Use::told).atLeast(std::max<uint64_t>(1, (ranks - 1) * words * sizeof(uint32_t))));
  std::vector<uint64_t> sendBytes(ranks, 0), receiveBytes(ranks, 0);
  uint64_t sentBytes = 0, receivedBytes = 0;
  std::vector<uint32_t> tokens;
  std::vector<bool> isLocal(ranks, false);
  isLocal[self] = true;
  for (uint32_t rank = 0; rank < ranks; rank++) {
    tokens.push_back(facts[rank].tokens);
    maxTokens_ = std::max(maxTokens_, facts[rank].tokens);
    allTokens_ += facts[rank].tokens;
    mostLandingRows_ = std::max(mostLandingRows_, facts[rank].landingRows);
    if (rank == self) continue;
    uint32_t *slots = told + sentBytes / sizeof(uint32_t);
    places.writeArrival(rank, slots);
    std::copy(landingRow[rank].begin(), landingRow[rank].end(), slots + uint64_t{places.tokens} * topk);
    sentBytes += sendBytes[rank] = words * sizeof(uint32_t);
    receivedBytes += receiveBytes[rank] = uint64_t{facts[rank].tokens} * (topk + 1) * sizeof(uint32_t);
  }
  auto *heard =
      reinterpret_cast<uint32_t *>(group_->arena(Use::heard).atLeast(std::max<uint64_t>(1, receivedBytes)));
  group_->swapOnHost(told, sendBytes, heard, receiveBytes, tellingPlaces);
  remoteTokens_ = allTokens_ - places.tokens;
  const cuda::OnePassLayout layout(places.tokens, remoteTokens_, topk, 1);
  uint8_t *tables = group_->arena(Use::onePassTables).atLeast(layout.bytes);
  cuda::OnePassTableMaker maker(topk, tokens, isLocal, layout, remoteTokens_, tables);
  maker.addLocal(self, places);
  const uint32_t *at = heard;
  for (uint32_t rank = 0; rank < ranks; rank++) {
    if (rank == self) continue;
    const uint64_t entries = uint64_t{tokens[rank]} * topk;
    tables_.checkArrival(rank, at, at + entries, tokens[rank], facts[rank].landingRows);
    std::copy(at, at + entries, maker.arrival(self, rank));
    std::copy(at + entries, at + entries + tokens[rank], maker.arrivalRow(self, rank));
    at += entries + tokens[rank];
  }
  tables_.checkAllTold();
  const auto *send = reinterpret_cast<const Place *>(tables + layout.send);
  rowsOnce_ = rowsOf(send, send + uint64_t{places.tokens} * topk);
}

void Plan::upload() {
  const RankPlan &part = sizes().rank[0];
  const Neighbors &neighbors = group_->neighbors();
  std::vector<DevicePlanHead> head(1);
  head[0] = {};
  head[0].topk = sizes().topk;
  head[0].localRanks = 1;
  head[0].tokens = part.tokens;
  head[0].paddings = static_cast<uint32_t>(part.padding.size());
  head[0].ranksPerNode = sizes().ranksPerNode;
  head[0].rankOf[0] = neighbors.self;
  head[0].originOf[0] = neighbors.rank;
  head[0].tokenStart[1] = part.tokens;
  std::vector<PaddingRange> paddings;
  for (const RowRange &range : part.padding) paddings.push_back({neighbors.self, range.first, range.rows});
  std::vector<SumTerm> landedTerms;
  for (size_t i = 0; i < landing_.places.size(); i++) {
    const Place place = landing_.places[i];
    landedTerms.push_back({place.peer, static_cast<uint32_t>(place.row), static_cast<uint32_t>(i), 0});
  }

  std::vector<uint32_t> arrivalSlot;
  for (uint32_t peer = 0; peer < neighbors.ranks; peer++) {
    for (const Run &run : tables_.entryReceive.runs(peer)) {
      for (uint32_t i = 0; i < run.rows; i++) arrivalSlot.push_back(static_cast<uint32_t>(run.first + i));
    }
  }

  // Calls add(values, table) for each table: its elements, and the pointer to it in device memory.
  const uint32_t *barrier = nullptr;
  const auto forEachTable = [&](auto add) {
    add(head, device_.direct.head);
    add(std::vector<uint32_t>(2, 0), barrier);
    add(tables_.direct, device_.direct.place);
    add(tables_.returned, device_.returned.place);
    add(paddings, device_.direct.paddings);
    add(tables_.entryOrder, device_.entryOrder);
    add(arrivalSlot, device_.arrivalSlot);
    add(tables_.rowOrder, device_.rowOrder);
    add(tables_.placeEntry, device_.placeEntry);
    add(tables_.sums.offset, device_.sumOffset);
    add(tables_.sums.terms, device_.sumTerms);
    add(landing_.offset, device_.landedOffset);
    add(landing_.places, device_.landedPlaces);
    add(tables_.directOnce, device_.once.place);
    add(landedOnce_.offset, device_.onceOffset);
    add(landedOnce_.places, device_.oncePlaces);
    add(copies_.from, device_.copyFrom);
    add(copies_.offset, device_.copyOffset);
    add(copies_.places, device_.copyPlaces);
    add(landedTerms, device_.landedTerms);
  };
  forEachTable([&](const auto &values, const auto &) {
    memoryBytes_ = alignSegment(memoryBytes_) + values.size() * sizeof values[0];
  });
  const uint64_t uploaded = memoryBytes_;
  const uint64_t onePassStart = alignSegment(uploaded);
  const cuda::OnePassLayout layout(part.tokens, remoteTokens_, sizes().topk, 1);
  if (isOnePass()) memoryBytes_ = onePassStart + layout.bytes;
  // The next plan that gets the memory may be a little larger.
  uint8_t *memory = memory_->atLeast(memoryBytes_, memoryBytes_ / 4);
  uint8_t *bytes = group_->arena(Use::tables).atLeast(uploaded);
  uint64_t at = 0;
  forEachTable([&](const auto &values, auto &table) {
    const uint64_t size = values.size() * sizeof values[0];
    at = alignSegment(at);
    if (size > 0) std::memcpy(bytes + at, values.data(), size);
    table = reinterpret_cast<decltype(values.data())>(memory + at);
    at += size;
  });
  group_->must(cudaMemcpy(memory, bytes, uploaded, cudaMemcpyHostToDevice), "uploading a plan");
  device_.barrier = const_cast<uint32_t *>(barrier);
  if (isOnePass()) {
    uint8_t *onePass = memory + onePassStart;
    group_->must(cudaMemcpy(onePass, group_->arena(Use::onePassTables).atLeast(layout.bytes), layout.bytes,
                            cudaMemcpyHostToDevice),
                 "uploading a plan");
    device_.onePass = layout.tables(onePass, device_.direct.place, remoteTokens_);
  }
  if (!group_->hasNeighbors()) {
    device_.once.place = device_.direct.place;
    device_.onceOffset = device_.landedOffset;
    device_.oncePlaces = device_.landedPlaces;
  }
  device_.once.head = device_.direct.head;
  device_.once.paddings = device_.direct.paddings;
  device_.returned.head = device_.direct.head;
  device_.returned.paddings = device_.direct.paddings;

  // Host memory keeps what the CPU reads during an exchange: send orders, rounds and sizes.
  static_cast<UploadedTables &>(tables_) = {};
  copiedRows_ = copies_.rows();
  copies_ = {};
  landedOnce_ = {};
}

uint64_t Plan::landingRowBytes(uint64_t rowBytes, uint32_t elementBytes) const {
  return sizes().tree == Tree::kept ? rowBytes / elementBytes * sizeof(float) : rowBytes;
}

fusco_nccl_bytes Plan::onePassBytes(uint64_t rowBytes) const {
  auto result = fusco_sized<fusco_nccl_bytes>();
  result.tables = memoryBytes_;
  result.enqueues = 1;
  // Partial sums are kept in float32 at most: twice the bytes of a 16-bit payload.
  if (sumsPerRank()) {
    result.combine = mostLandingRows_ * rowBytes * (sizes().tree == Tree::kept ? 2 : 1);
  }
  return result;
}

fusco_nccl_bytes Plan::bytes(uint64_t rowBytes) const {
  if (isOnePass()) return onePassBytes(rowBytes);
  const Schedule &out = (tables_.forwards ? rowsOut_ : entriesOut_).schedule(rowBytes);
  auto result = fusco_sized<fusco_nccl_bytes>();
  result.tables = memoryBytes_;
  const auto ringBytes = [](uint32_t rows, uint64_t size) { return ringDepth * alignSegment(rows * size); };
  result.dispatch = ringBytes(out.mostSent, rowBytes);
  if (tables_.forwards || !entriesOut_.inPlace(rowBytes)) {
    result.dispatch += ringBytes(out.mostReceived, rowBytes);
  }
  // Partial sums are kept in float32 at most: twice the bytes of a 16-bit payload.
  const bool partials = tables_.returnsPartials();
  const uint64_t size = partials && sizes().tree == Tree::kept ? 2 * rowBytes : rowBytes;
  const Route &back = partials ? rowsBack_ : entriesBack_;
  result.combine = back.receive().total() * size;
  if (partials || !back.inPlace(size)) result.combine += ringBytes(back.schedule(size).mostSent, size);
  return result;
}

}  // namespace fusco::nccl
