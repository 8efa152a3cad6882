#include "one_pass_exchange.hpp"

#include <algorithm>
#include <cstring>

#include "edges.hpp"
#include "failure.hpp"
#include "listed.hpp"

namespace fusco::cuda {

namespace {

// Of every wait in a one-pass kernel. Readiness of all ranks is known when a launch starts: only a device
// that fails is late.
constexpr uint64_t deadlineNs = 30'000'000'000;
// Of a ready edge. A device may be late because it computes, or because it failed.
constexpr uint64_t readyDeadlineNs = 600'000'000'000;
// Tokens of a rank up to which latency counts more than SMs.
constexpr uint32_t smallBatch = 512;
bool isSmallBatch(const OnePassCase &c) { return c.maxTokens <= smallBatch; }

// `enough`: SMs that suffice for large batches. A limit says how many to use.
OnePassGrid gridOf(const OnePassCase &c, uint32_t enough) {
  if (c.isLimited) return {c.sms};
  // Where a launch takes all SMs in any case, the next one may wait there for its end.
  return isSmallBatch(c) ? OnePassGrid{c.sms, true} : OnePassGrid{std::min(c.sms, enough)};
}

// Tokens of a chunk: a chunk has at most maxChunkTokens tokens and maxChunkEntries entries.
uint32_t fittingChunk(const OnePassCase &c, uint32_t tokens) {
  return std::max(1u, std::min({tokens, maxChunkTokens, maxChunkEntries / c.topk}));
}

// Many blocks have the flags of small chunks set in time.
uint32_t moveChunk(uint32_t blocks) { return blocks >= 100 ? 2 : blocks >= 48 ? 4 : 8; }

// Tokens between sending a row and copying it on. With few blocks flags come later.
uint32_t lagTokens(uint32_t blocks) { return blocks < 32 ? 512 : 256; }

// Zeroes memory of the current device, on a stream that is never captured, and waits.
void clear(CudaContext &context, void *memory, uint64_t bytes) {
  cudaStream_t stream = nullptr;
  context.check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  cudaMemsetAsync(memory, 0, bytes, stream);
  const cudaError_t error = cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
  context.check(error, "clearing the signals of a device");
}

}  // namespace

OnePassSignals::OnePassSignals(CudaContext &context)
    : context_(context),
      flags_(context.ranks()),
      landing_(context.ranks()),
      pushed_(context.groups().size()) {
  const RelaxedCapture relaxed;
  for (const DeviceGroup &group : context.groups()) {
    const OnDevice here(group.device);
    signals_.push_back(
        static_cast<DeviceSignals *>(context.allocRaw(group.ranks.front(), sizeof(DeviceSignals))));
    clear(context, signals_.back(), sizeof(DeviceSignals));
    context.check(loadReadyEdge(), "loading a kernel");
  }
  context.check(cudaHostAlloc(reinterpret_cast<void **>(&failure_), sizeof *failure_,
                              cudaHostAllocPortable | cudaHostAllocMapped),
                "allocating a record of failures");
  *failure_ = {};
}

OnePassSignals::~OnePassSignals() {
  for (size_t i = 0; i < signals_.size(); i++) {
    const OnDevice here(context_.groups()[i].device);
    cudaFree(signals_[i]);
    cudaFree(pushed_[i].data);
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
  // The epochs of calls to come are larger than zero.
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
    grow(pushed_[i], rank, 2 * pushedEntries_ * sizeof(uint64_t), true);
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
  common.control = &signals_[index]->control;
  common.failure = failure_;
  common.deadlineNs = deadlineNs;
  common.device = static_cast<uint32_t>(index);
  common.devices = static_cast<uint32_t>(signals_.size());
  common.chunkTokens = chunkTokens;
  for (size_t i = 0; i < signals_.size(); i++) common.inbox[i] = &signals_[i]->inbox;
  for (uint32_t rank = 0; rank < flags_.size(); rank++) {
    common.flags[rank] = reinterpret_cast<uint32_t *>(flags_[rank].data);
  }
  return common;
}

OnePassCommon OnePassSignals::readyEdge(size_t index) const {
  OnePassCommon edge = common(index, {}, 1);
  edge.deadlineNs = readyDeadlineNs;
  return edge;
}

void OnePassSignals::addSum(SumParams &params) const {
  params.pushedEntries = pushedEntries_;
  for (size_t i = 0; i < pushed_.size(); i++) {
    params.pushed[i] = pushed(i);
  }
  for (uint32_t rank = 0; rank < landing_.size(); rank++) params.landing[rank] = landing_[rank].data;
}

void OnePassSignals::checkWaits() const {
  const WaitFailure &failure = *failure_;
  if (codeOf(failure) == failureNone) return;
  std::vector<uint32_t> late;
  for (uint32_t i = 0; i < context_.groups().size(); i++) {
    if (failure.culprits.has(i)) late.push_back(static_cast<uint32_t>(context_.groups()[i].device));
  }
  throw Failure(FUSCO_E_PEER_TIMEOUT,
                "%s did not take part in exchange %u: not ready within %llu s, or stopped for %llu s",
                listed("device", late).c_str(), failure.epoch,
                static_cast<unsigned long long>(readyDeadlineNs / 1'000'000'000),
                static_cast<unsigned long long>(deadlineNs / 1'000'000'000));
}

// Figures of 2 and 4 H100 are in docs/performance-gpus.md: few SMs within 5 % of the best, and for a dispatch
// on four GPUs within 1 %, since the next smaller number takes 3 % longer. Work items of short payloads, such
// as scales, take as long as those of rows and move less.
OnePassShape dispatchShape(const OnePassCase &c) {
  const bool isSmall = isSmallBatch(c);
  OnePassShape shape{gridOf(c, c.devices > 2 && c.payloads <= 1 ? 48 : 64)};
  // With two tokens, 128 tokens on four GPUs are one item for each warp.
  const uint32_t smallChunk = c.devices > 2 && c.maxTokens >= 128 ? 2 : 1;
  shape.chunkTokens = fittingChunk(c, isSmall ? smallChunk : moveChunk(shape.grid.blocks));
  shape.lag = isSmall ? 0 : lagTokens(shape.grid.blocks) / shape.chunkTokens;
  return shape;
}

OnePassShape combineShape(const OnePassCase &c) {
  const bool isSmall = isSmallBatch(c);
  OnePassShape shape{gridOf(c, c.devices > 2 ? 64 : c.sms)};
  const uint32_t blocks = shape.grid.blocks;
  shape.chunkTokens = fittingChunk(c, isSmall ? 1 : blocks >= 100 ? 2 : blocks >= 48 ? 4 : 16);
  const uint32_t percent = isSmall && c.devices <= 2 ? 100 : blocks < 32 ? 67 : 60;
  shape.senders = std::max(1u, blocks * percent / 100);
  return shape;
}

// On all SMs: rows of experts are read as well, so that memory bounds it more often than links do.
OnePassShape gradientShape(const OnePassCase &c) {
  OnePassShape shape{{c.sms}};
  // Few SMs have no time for the flags of small chunks.
  const bool isWide = isSmallBatch(c) || c.sms >= 100;
  shape.chunkTokens = fittingChunk(c, isWide ? 1 : moveChunk(c.sms));
  shape.lag = isSmallBatch(c) ? 0 : (isWide ? 768 : 512) / shape.chunkTokens;
  return shape;
}

uint64_t onePassFlags(uint32_t ranks, uint64_t tokens, uint32_t chunkTokens, uint64_t slices) {
  // A dispatch has a flag for each chunk of all ranks, a combine for each sender and chunk of the rank.
  return ranks * (tokens / chunkTokens + 1) * slices;
}

void addSlices(MoveParams &move) {
  uint32_t slices = 0;
  for (uint32_t i = 0; i < move.dispatch.leading; i++) {
    move.sliceStart[i] = slices;
    slices +=
        static_cast<uint32_t>((move.dispatch.payload[i].rowBytes + moveSliceBytes - 1) / moveSliceBytes);
  }
  move.sliceStart[move.dispatch.leading] = slices;
  move.slices = std::max(1u, slices);
}

}  // namespace fusco::cuda
