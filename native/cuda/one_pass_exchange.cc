#include "one_pass_exchange.hpp"

#include <algorithm>
#include <cstring>

#include "failure.hpp"
#include "signals.hpp"

namespace fusco::cuda {

namespace {

constexpr uint64_t tableAlign = 256;
// Of every wait in a kernel. Readiness of all ranks is known when a launch starts: only a device that fails
// is late.
constexpr uint64_t deadlineNs = 30'000'000'000;
// Tokens of a rank up to which latency counts more than SMs.
constexpr uint32_t smallBatch = 512;
// Tokens between sending a row and copying it on.
constexpr uint32_t lagTokens = 256;

uint64_t aligned(uint64_t bytes) { return (bytes + tableAlign - 1) / tableAlign * tableAlign; }

// Looks up places of one token at a rank.
struct TokenPlaces {
  const Place *places;
  uint32_t topk;

  // The lowest slot at a rank, or -1.
  int32_t lowestAt(uint32_t rank) const {
    int32_t lowest = -1;
    for (uint32_t k = 0; k < topk; k++) {
      if (places[k].row < 0 || places[k].peer != rank) continue;
      if (lowest < 0 || places[k].row < lowest) lowest = places[k].row;
    }
    return lowest;
  }
};

// Allows this thread to allocate while it captures: what it allocates is not part of the capture.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture &) = delete;
  RelaxedCapture &operator=(const RelaxedCapture &) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Zeroes memory of the current device, on a stream that is never captured, and waits.
void clear(CudaContext &context, void *memory, uint64_t bytes) {
  cudaStream_t stream = nullptr;
  context.check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  cudaMemsetAsync(memory, 0, bytes, stream);
  const cudaError_t error = cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
  context.check(error, "clearing the signals of a device");
}

class TableMaker {
 public:
  TableMaker(const fusco_plan &plan, const CudaContext &context, const DeviceGroup &group,
             const OnePassLayout &layout, uint64_t capacityTokens, uint8_t *at)
      : plan_(plan), context_(context), group_(group), capacity_(capacityTokens) {
    head_ = new (at + layout.head) OnePassHead{};
    send_ = reinterpret_cast<Place *>(at + layout.send);
    terms_ = reinterpret_cast<SumTerm *>(at + layout.terms);
    arrival_ = reinterpret_cast<uint32_t *>(at + layout.arrival);
    arrivalRow_ = reinterpret_cast<uint32_t *>(at + layout.arrivalRow);
  }

  void make(std::vector<uint32_t> &landingRows) {
    fillHead();
    for (uint32_t rank = 0; rank < plan_.ranks; rank++) {
      landingRows[rank] = isLocal(rank) ? addLocal(rank) : addRemote(rank);
    }
  }

 private:
  bool isLocal(uint32_t rank) const { return context_.deviceOf(rank) == group_.device; }
  TokenPlaces placesOf(uint32_t rank, uint32_t token) const {
    return {plan_.rank[rank].places.data() + uint64_t{token} * plan_.topk, plan_.topk};
  }

  void fillHead() {
    OnePassHead &head = *head_;
    head.ranks = plan_.ranks;
    head.topk = plan_.topk;
    uint32_t arrivals = 0;
    uint32_t locals = 0;
    for (uint32_t rank = 0; rank < plan_.ranks; rank++) {
      const uint32_t tokens = plan_.rank[rank].tokens;
      head.maxTokens = std::max(head.maxTokens, tokens);
      head.tokens[rank] = tokens;
      head.tokenStart[rank + 1] = head.tokenStart[rank] + tokens;
      head.localOf[rank] = noSlot;
      if (isLocal(rank)) {
        head.localOf[rank] = head.locals;
        head.localStart[head.locals] = locals;
        head.local[head.locals++] = rank;
        locals += tokens;
      } else {
        head.arrivalStart[rank] = arrivals;
        arrivals += tokens;
      }
    }
    for (uint32_t distance = 1; distance < plan_.ranks; distance++) {
      const uint32_t rank = (head.local[0] + distance) % plan_.ranks;
      if (!isLocal(rank)) head.remote[head.remotes++] = rank;
    }
  }

  // Landing rows at a rank are numbered by (remote rank, token). Calls f(remote rank, token, landing row).
  template <class F>
  uint32_t forLandingRows(uint32_t home, F f) const {
    uint32_t row = 0;
    for (uint32_t rank = 0; rank < plan_.ranks; rank++) {
      if (context_.deviceOf(rank) == context_.deviceOf(home)) continue;
      for (uint32_t token = 0; token < plan_.rank[home].tokens; token++) {
        if (placesOf(home, token).lowestAt(rank) >= 0) f(rank, token, row++);
      }
    }
    return row;
  }

  uint32_t addLocal(uint32_t rank) {
    const uint32_t tokens = plan_.rank[rank].tokens;
    const uint64_t start = uint64_t{head_->localStart[head_->localOf[rank]]} * plan_.topk;
    std::vector<uint32_t> landingRow(uint64_t{tokens} * plan_.ranks);
    const uint32_t rows = forLandingRows(rank, [&](uint32_t remote, uint32_t token, uint32_t row) {
      landingRow[uint64_t{token} * plan_.ranks + remote] = row;
    });
    for (uint32_t token = 0; token < tokens; token++) {
      const TokenPlaces at = placesOf(rank, token);
      const uint64_t first = start + uint64_t{token} * plan_.topk;
      for (uint32_t k = 0; k < plan_.topk; k++) {
        send_[first + k] = at.places[k];
        const uint32_t peer = at.places[k].peer;
        if (at.places[k].row >= 0 && !isLocal(peer) && at.places[k].row != at.lowestAt(peer)) {
          send_[first + k].row = FUSCO_SLOT_MASKED;
        }
      }
      addTerms(at, landingRow.data() + uint64_t{token} * plan_.ranks, terms_ + first);
    }
    return rows;
  }

  // In the order of ranks, then of k: a rank is a node here.
  void addTerms(const TokenPlaces &at, const uint32_t *landingRow, SumTerm *terms) const {
    uint32_t count = 0;
    std::fill(terms, terms + plan_.topk, SumTerm{});
    for (uint32_t rank = 0; rank < plan_.ranks; rank++) {
      bool hasLanded = false;
      for (uint32_t k = 0; k < plan_.topk; k++) {
        if (at.places[k].row < 0 || at.places[k].peer != rank) continue;
        const uint32_t from = rank << termRankShift | termIsUsed;
        if (isLocal(rank)) {
          terms[count++] = {static_cast<uint32_t>(at.places[k].row), k | from};
        } else if (!hasLanded) {
          hasLanded = true;
          terms[count++] = {landingRow[rank], from | termIsLanding};
        }
      }
    }
  }

  uint32_t addRemote(uint32_t rank) {
    const uint32_t tokens = plan_.rank[rank].tokens;
    for (uint32_t local = 0; local < head_->locals; local++) {
      const uint32_t here = head_->local[local];
      const uint64_t first = local * capacity_ + head_->arrivalStart[rank];
      for (uint32_t token = 0; token < tokens; token++) {
        const TokenPlaces at = placesOf(rank, token);
        const int32_t lowest = at.lowestAt(here);
        uint32_t *slots = arrival_ + (first + token) * plan_.topk;
        for (uint32_t k = 0; k < plan_.topk; k++) {
          const Place &place = at.places[k];
          slots[k] = place.row < 0 || place.peer != here ? noSlot : static_cast<uint32_t>(place.row);
          if (slots[k] != noSlot && place.row == lowest) slots[k] |= isLanding;
        }
      }
    }
    return forLandingRows(rank, [&](uint32_t sender, uint32_t token, uint32_t row) {
      if (!isLocal(sender)) return;
      arrivalRow_[head_->localOf[sender] * capacity_ + head_->arrivalStart[rank] + token] = row;
    });
  }

  const fusco_plan &plan_;
  const CudaContext &context_;
  const DeviceGroup &group_;
  uint64_t capacity_;
  OnePassHead *head_;
  Place *send_;
  SumTerm *terms_;
  uint32_t *arrival_;
  uint32_t *arrivalRow_;
};

}  // namespace

OnePassLayout::OnePassLayout(uint64_t tokens, uint32_t topk, uint32_t locals) {
  const uint64_t entries = tokens * topk;
  send = aligned(sizeof(OnePassHead));
  terms = send + aligned(entries * sizeof(Place));
  arrival = terms + aligned(entries * sizeof(SumTerm));
  arrivalRow = arrival + aligned(locals * entries * sizeof(uint32_t));
  bytes = arrivalRow + aligned(locals * tokens * sizeof(uint32_t));
}

void fillOnePassTables(const fusco_plan &plan, const CudaContext &context, const DeviceGroup &group,
                       const OnePassLayout &layout, uint64_t capacityTokens, uint8_t *at,
                       std::vector<uint32_t> &landingRows) {
  TableMaker(plan, context, group, layout, capacityTokens, at).make(landingRows);
}

OnePassSignals::OnePassSignals(CudaContext &context)
    : context_(context),
      flags_(context.ranks()),
      landing_(context.ranks()),
      pushed_(context.groups().size()),
      pushedFlags_(context.groups().size()) {
  const RelaxedCapture relaxed;
  for (const DeviceGroup &group : context.groups()) {
    const OnDevice here(group.device);
    const uint64_t readyBytes = context.groups().size() * sizeof(uint32_t);
    auto *control = static_cast<uint8_t *>(context.allocRaw(group.ranks.front(), tableAlign + readyBytes));
    control_.push_back(reinterpret_cast<LaunchControl *>(control));
    ready_.push_back(reinterpret_cast<uint32_t *>(control + tableAlign));
    clear(context, control, tableAlign + readyBytes);
  }
  context.check(cudaHostAlloc(reinterpret_cast<void **>(&failure_), sizeof *failure_,
                              cudaHostAllocPortable | cudaHostAllocMapped),
                "allocating a record of failures");
  *failure_ = {};
}

OnePassSignals::~OnePassSignals() {
  for (size_t i = 0; i < control_.size(); i++) {
    const OnDevice here(context_.groups()[i].device);
    cudaFree(control_[i]);
    cudaFree(pushed_[i].data);
    cudaFree(pushedFlags_[i].data);
  }
  for (uint32_t rank = 0; rank < flags_.size(); rank++) {
    const OnDevice here(context_.deviceOf(rank));
    cudaFree(flags_[rank].data);
    cudaFree(landing_[rank].data);
  }
  for (const auto &[device, memory] : old_) {
    const OnDevice here(device);
    cudaFree(memory);
  }
  cudaFreeHost(failure_);
  (void)cudaGetLastError();
}

void OnePassSignals::grow(Grown &buffer, uint32_t rank, uint64_t bytes, bool isZeroed) {
  if (buffer.bytes >= bytes) return;
  const OnDevice here(context_.deviceOf(rank));
  const RelaxedCapture relaxed;
  if (buffer.data != nullptr) old_.emplace_back(context_.deviceOf(rank), buffer.data);
  buffer = {static_cast<uint8_t *>(context_.allocRaw(rank, bytes)), bytes};
  // Flags of calls to come are larger than zero.
  if (isZeroed) clear(context_, buffer.data, bytes);
}

bool OnePassNeed::fitsIn(const OnePassNeed &capacity) const {
  if (flags > capacity.flags || pushedEntries > capacity.pushedEntries) return false;
  for (size_t rank = 0; rank < landingBytes.size(); rank++) {
    if (landingBytes[rank] > capacity.landingBytes[rank]) return false;
  }
  return true;
}

void OnePassSignals::reserve(const OnePassNeed &need) {
  pushedEntries_ = std::max(pushedEntries_, need.pushedEntries);
  for (size_t i = 0; i < pushed_.size(); i++) {
    const uint32_t rank = context_.groups()[i].ranks.front();
    grow(pushed_[i], rank, 2 * pushedEntries_ * sizeof(float), false);
    grow(pushedFlags_[i], rank, (pushedEntries_ / pushTokens + context_.ranks()) * sizeof(uint32_t), true);
  }
  for (uint32_t rank = 0; rank < flags_.size(); rank++) {
    grow(flags_[rank], rank, need.flags * sizeof(uint32_t), true);
    if (!need.landingBytes.empty()) grow(landing_[rank], rank, need.landingBytes[rank], false);
  }
}

OnePassNeed OnePassSignals::capacity() const {
  OnePassNeed capacity{flags_.front().bytes / sizeof(uint32_t), pushedEntries_, {}};
  for (const Grown &landing : landing_) capacity.landingBytes.push_back(landing.bytes);
  return capacity;
}

OnePassCommon OnePassSignals::common(size_t index, const OnePassTables &tables, uint32_t chunkTokens) const {
  OnePassCommon common{};
  common.plan = tables;
  common.control = control_[index];
  common.failure = failure_;
  common.deadlineNs = deadlineNs;
  common.device = static_cast<uint32_t>(index);
  common.devices = static_cast<uint32_t>(control_.size());
  common.chunkTokens = chunkTokens;
  std::copy(ready_.begin(), ready_.end(), common.ready);
  for (uint32_t rank = 0; rank < flags_.size(); rank++) {
    common.flags[rank] = reinterpret_cast<uint32_t *>(flags_[rank].data);
  }
  return common;
}

void OnePassSignals::addSum(SumParams &params) const {
  params.pushedEntries = pushedEntries_;
  for (size_t i = 0; i < pushed_.size(); i++) {
    params.pushed[i] = reinterpret_cast<float *>(pushed_[i].data);
    params.pushedFlags[i] = reinterpret_cast<uint32_t *>(pushedFlags_[i].data);
  }
  for (uint32_t rank = 0; rank < landing_.size(); rank++) params.landing[rank] = landing_[rank].data;
}

void OnePassSignals::checkWaits() const {
  if (*static_cast<volatile uint32_t *>(&failure_->code) == 0) return;
  throw Failure(FUSCO_E_PEER_TIMEOUT, "device %u did not take part in exchange %u within %llu s",
                context_.groups()[failure_->peer % context_.groups().size()].device, failure_->epoch,
                static_cast<unsigned long long>(deadlineNs / 1'000'000'000));
}

// Figures of 2 and 4 H100 are in docs/performance-gpus.md: few SMs within 5 % of the best.
OnePassShape dispatchShape(uint32_t devices, uint32_t sms, bool isLimited, uint32_t topk,
                           uint32_t maxTokens) {
  const bool isSmall = maxTokens <= smallBatch;
  const uint32_t enough = isSmall ? sms : devices > 2 ? 32 : 64;
  OnePassShape shape{};
  shape.blocks = isLimited ? sms : std::min(sms, enough);
  shape.chunkTokens = isSmall ? 1 : shape.blocks >= 100 ? 2 : shape.blocks >= 48 ? 4 : 8;
  shape.chunkTokens = std::max(1u, std::min(shape.chunkTokens, maxChunkEntries / topk));
  shape.lag = isSmall ? 0 : lagTokens / shape.chunkTokens;
  return shape;
}

OnePassShape combineShape(uint32_t devices, uint32_t sms, bool isLimited, uint32_t topk, uint32_t maxTokens) {
  const bool isSmall = maxTokens <= smallBatch;
  const uint32_t enough = isSmall || devices <= 2 ? sms : 64;
  OnePassShape shape{};
  shape.blocks = isLimited ? sms : std::min(sms, enough);
  shape.chunkTokens = isSmall ? 1 : shape.blocks >= 100 ? 2 : shape.blocks >= 48 ? 4 : 16;
  shape.chunkTokens = std::max(1u, std::min(shape.chunkTokens, maxChunkEntries / topk));
  shape.senders = isSmall ? shape.blocks : std::max(1u, shape.blocks * 6 / 10);
  return shape;
}

uint64_t onePassFlags(uint32_t ranks, uint64_t tokens, uint32_t chunkTokens, uint64_t slices) {
  // A dispatch has a flag for each chunk of all ranks, a combine for each sender and chunk of the rank.
  return ranks * (tokens / chunkTokens + 1) * slices;
}

uint32_t maxTokensOf(const fusco_plan &plan) {
  uint32_t tokens = 0;
  for (const RankPlan &part : plan.rank) tokens = std::max(tokens, part.tokens);
  return tokens;
}

}  // namespace fusco::cuda
