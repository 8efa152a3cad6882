#include "nccl_group.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "listed.hpp"

namespace fusco::nccl {

using cuda::OnDevice;

namespace {

// A wait first looks again at once, then sleeps in between.
constexpr uint64_t spinNs = 500000;
constexpr useconds_t napUs = 20;
// What closing a communicator may take before it is aborted.
constexpr uint64_t closingNs = 2000000000;
// Memory of plans that are gone, kept for the next ones.
constexpr size_t maxFreeTables = 4;

std::shared_ptr<cuda::CudaContext> contextOf(const fusco_nccl_group_desc &desc) {
  if (desc.context == nullptr || desc.context->shared->ranks() != 1) {
    throw Failure(FUSCO_E_OPTION, "a group needs a context of one rank");
  }
  return desc.context->shared;
}

// A call of the library itself.
fusco_nccl_call callNumber(uint64_t number) {
  fusco_nccl_call call = fusco_sized<fusco_nccl_call>();
  call.number = number;
  return call;
}

const fusco_nccl_group_desc &checked(const fusco_nccl_group_desc &desc) {
  if (desc.ranks < 1 || desc.ranks > FUSCO_MAX_RANKS || desc.rank >= desc.ranks || desc.machines == nullptr) {
    throw Failure(FUSCO_E_RANKS, "rank %u of %u", desc.rank, desc.ranks).limited(desc.rank, desc.ranks);
  }
  if (desc.round_bytes < 1) throw Failure(FUSCO_E_OPTION, "round_bytes is 0; it must be at least 1");
  if (desc.deadline_ns < 1000000)
    throw Failure(FUSCO_E_OPTION, "deadline_ns is %llu; it must be at least 1000000", desc.deadline_ns);
  return desc;
}

// Where each of the messages that follow one another starts, and the end.
std::vector<uint64_t> startsOf(const std::vector<uint64_t> &bytes) {
  std::vector<uint64_t> starts{0};
  for (const uint64_t count : bytes) starts.push_back(starts.back() + count);
  return starts;
}

Failure differentSize(uint32_t rank, uint64_t given, uint64_t expected) {
  return Failure(FUSCO_E_PEER_MISMATCH, "rank %u sends %llu bytes instead of %llu", rank, given, expected)
      .atRank(rank)
      .limited(given, expected);
}

}  // namespace

Arena::~Arena() {
  if (memory_ == nullptr) return;
  const OnDevice here(context_.deviceOf(0));
  const cuda::RelaxedCapture relaxed;
  free();
  (void)cudaGetLastError();
}

cudaError_t Arena::free() { return isPinned_ ? cudaFreeHost(memory_) : cudaFree(memory_); }

uint8_t *Arena::atLeast(uint64_t bytes, uint64_t spare) {
  if (bytes <= bytes_) return memory_;
  bytes += spare;
  const std::lock_guard<std::mutex> lock(context_.mutex);
  const OnDevice here(context_.deviceOf(0));
  context_.check(free(), "freeing rows of the wire");
  memory_ = nullptr;
  bytes_ = 0;
  if (isPinned_) {
    context_.check(cudaMallocHost(reinterpret_cast<void **>(&memory_), bytes), "allocating pinned memory");
  } else {
    memory_ = static_cast<uint8_t *>(context_.allocRaw(0, bytes));
  }
  bytes_ = bytes;
  return memory_;
}

Group::Group(const fusco_nccl_group_desc &desc, Closed)
    : library_(openLibrary(nullptr)),
      context_(contextOf(checked(desc))),
      neighbors_(desc.ranks, desc.rank, desc.machines),
      deadlineNs_(desc.deadline_ns),
      roundBytes_(desc.round_bytes) {
  for (uint32_t i = 0; i < static_cast<uint32_t>(Use::count); i++) {
    arenas_.push_back(std::make_unique<Arena>(*context_, i >= static_cast<uint32_t>(Use::told)));
  }
}

std::unique_ptr<Arena> Group::takeTables() {
  const std::lock_guard<std::mutex> lock(freeTablesMutex_);
  if (freeTables_.empty()) return std::make_unique<Arena>(*context_);
  std::unique_ptr<Arena> tables = std::move(freeTables_.back());
  freeTables_.pop_back();
  return tables;
}

void Group::keepTables(std::unique_ptr<Arena> tables) {
  const std::lock_guard<std::mutex> lock(freeTablesMutex_);
  if (freeTables_.size() < maxFreeTables) freeTables_.push_back(std::move(tables));
}

Group::Group(const fusco_nccl_group_desc &desc) : Group(desc, Closed{}) {
  const OnDevice here(device());
  try {
    open(desc);
  } catch (const Failure &failure) {
    fail(failure);
    throw;
  }
}

void Group::open(const fusco_nccl_group_desc &desc) {
  enter(callNumber(0));
  openStreams();
  must(cudaHostAlloc(reinterpret_cast<void **>(&hostSignals_), sizeof *hostSignals_, cudaHostAllocMapped),
       "allocating a flag");
  *hostSignals_ = {};
  if (hasNeighbors()) {
    openFlags();
    if (desc.mailbox == nullptr)
      throw Failure(FUSCO_E_OPTION, "ranks that share a machine need the name of a mailbox");
    mailbox_ = std::make_unique<Mailbox>(desc.mailbox, neighbors_.count(), neighbors_.self,
                                         waiting("waiting for the ranks of this machine"));
    if (neighbors_.areAll()) {
      hostSwap_ = std::make_unique<HostSwap>(*mailbox_, neighbors_.rankAt, neighbors_.self);
    }
    registry_ = std::make_unique<Registry>(
        *mailbox_, neighbors_, *context_, [this] { endWaits(); }, [this] { refuseSharingInCapture(); });
  }
  abi::UniqueId id;
  std::memcpy(id.internal, desc.id, sizeof id.internal);
  abi::Config config;
  config.blocking = 0;
  if (desc.max_ctas > 0) config.maxCtas = static_cast<int>(desc.max_ctas);
  checkResult(library_.commInitRankConfig(&comm_, static_cast<int>(neighbors_.ranks), id,
                                          static_cast<int>(neighbors_.rank), &config),
              "making a communicator");
  settle("making a communicator");
  if (!hasNeighbors()) return;
  // The addresses of flags are exchanged as those of buffers are.
  uint64_t waitNs = 0;
  const std::vector<uint32_t> rows(neighbors_.count(), 1);
  const Mapped mapped = shareBuffers(callNumber(1), {{{flags_, flagsBytes}, flagsBytes}}, rows, waitNs);
  for (uint8_t *flags : mapped[0]) peerFlags_.push_back(reinterpret_cast<uint64_t *>(flags));
  peers_ = std::make_unique<PeerMemory>(*this);
  context_->checkKernels = [this] { check(); };
}

Group::~Group() {
  const OnDevice here(device());
  context_->checkKernels = nullptr;
  // After a failure kernels and NCCL's operations end by themselves.
  closeComm();
  synchronize();
  for (const cudaStream_t stream : streams_) {
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
  registry_.reset();
  // Memory that another process has mapped must not be freed before it is unmapped there.
  if (mailbox_ != nullptr) {
    mailbox_->leave();
    const uint64_t until = monotonicNs() + closingNs;
    while (!broken_ && !haveWaitsEnded_.load() && !mailbox_->haveAllLeft() && monotonicNs() < until) {
      usleep(napUs);
    }
  }
  peers_.reset();
  cudaFreeHost(hostSignals_);
  (void)cudaGetLastError();
}

void Group::synchronize() noexcept {
  for (const cudaStream_t stream : streams_) {
    if (stream != nullptr) cudaStreamSynchronize(stream);
  }
  // The caller's stream is not waited for itself: another thread may be capturing it.
  cudaEventSynchronize(lastCall_.get());
  const cudaStream_t stream = context_->stream(0);
  {
    // The context begins no capture meanwhile.
    const std::lock_guard<std::mutex> lock(context_->mutex);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const bool isKnown = cudaStreamIsCapturing(stream, &status) == cudaSuccess;
    if (isKnown && status == cudaStreamCaptureStatusNone) cudaEventRecord(drained_.get(), stream);
  }
  cudaEventSynchronize(drained_.get());
  (void)cudaGetLastError();
}

// The wire has the highest priority: a round that waits for an SM keeps its peers waiting as well.
void Group::openStreams() {
  int least = 0;
  int greatest = 0;
  must(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities");
  for (cudaStream_t &stream : streams_) {
    const int priority = &stream == &streams_[1] ? greatest : least;
    must(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority), "creating a stream");
  }
  for (cuda::Event *event : {&lastCall_, &drained_}) event->create(device(), cuda::Timing::off);
}

void Group::closeComm() noexcept {
  if (comm_ == nullptr) return;
  abi::Comm *comm = comm_;
  comm_ = nullptr;
  if (broken_) {
    library_.commAbort(comm);
    return;
  }
  abi::Result state = library_.commFinalize(comm);
  const uint64_t until = monotonicNs() + closingNs;
  while (state == abi::inProgress && monotonicNs() < until) {
    usleep(napUs);
    if (library_.commGetAsyncError(comm, &state) != abi::success) break;
  }
  if (state == abi::success) {
    library_.commDestroy(comm);
  } else {
    library_.commAbort(comm);
  }
}

void Group::enter(const fusco_nccl_call &call) {
  if (broken_) throw Failure(FUSCO_E_PEER_TIMEOUT, "the group was given up: %.200s", brokenBy_.message);
  entered_ = true;
  call_ = call;
  until_ = monotonicNs() + deadlineNs_;
  context_->checkAlive();
}

void Group::fail(const Failure &failure) noexcept {
  if (broken_) return;
  broken_ = true;
  brokenBy_ = failure.error;
  endWaits();
  if (mailbox_ != nullptr) mailbox_->fail(failure.error.rank);
  const OnDevice here(device());
  closeComm();
}

void Group::endWaits() noexcept {
  if (hostSignals_ == nullptr || haveWaitsEnded_.exchange(true)) return;
  *static_cast<volatile uint32_t *>(&hostSignals_->abort) = 1;
  if (peers_ != nullptr) peers_->endWaits();
}

void Group::check() const {
  const cuda::WaitFailure &failure = hostSignals_->failure;
  const uint32_t code = cuda::codeOf(failure);
  if (code == cuda::failureNone) return;
  if (code == cuda::failureMismatch) {
    const uint32_t other = peers_->otherCaller(failure.epoch, failure.digest);
    throw Failure(
        FUSCO_E_PEER_MISMATCH,
        "rank %u makes another exchange than rank %u: the plan, the kind of exchange, the bytes of a "
        "row, the dtype or the limit of SMs differ",
        neighbors_.rankAt[other], neighbors_.rank)
        .atRank(neighbors_.rankAt[other]);
  }
  if (code == cuda::failureAborted) {
    const std::string what = "exchange " + std::to_string(failure.epoch);
    for (uint32_t i = 0; i < neighbors_.count(); i++) {
      if (i == neighbors_.self) continue;
      if (mailbox_->isGone(i)) {
        throw Failure(FUSCO_E_PEER_TIMEOUT, "%s: rank %u has ended", what.c_str(), neighbors_.rankAt[i])
            .atRank(neighbors_.rankAt[i]);
      }
      if (mailbox_->hasFailed(i)) throw givenUp(what, i);
    }
    throw Failure(FUSCO_E_PEER_TIMEOUT, "%.200s", broken_ ? brokenBy_.message : abortedWhy_);
  }
  std::vector<uint32_t> late;
  for (uint32_t i = 0; i < neighbors_.count(); i++) {
    if (failure.culprits.has(i)) late.push_back(neighbors_.rankAt[i]);
  }
  throw Failure(FUSCO_E_PEER_TIMEOUT, "%s did not take part in exchange %u within %llu ms",
                listed("rank", late).c_str(), failure.epoch, deadlineNs_ / 1000000)
      .atRank(late.front());
}

Failure Group::givenUp(const std::string &what, uint32_t neighbor) const {
  const uint32_t rank = neighbors_.rankAt[neighbor];
  const int32_t culprit = mailbox_->culpritOf(neighbor);
  if (culprit < 0 || culprit == static_cast<int32_t>(neighbors_.rank) ||
      culprit == static_cast<int32_t>(rank)) {
    return Failure(FUSCO_E_PEER_TIMEOUT, "%s: rank %u has given up", what.c_str(), rank).atRank(rank);
  }
  return Failure(FUSCO_E_PEER_TIMEOUT, "%s: rank %u has given up because of rank %d", what.c_str(), rank,
                 culprit)
      .atRank(static_cast<uint32_t>(culprit));
}

void Group::abort(const char *why) noexcept {
  const std::lock_guard<std::mutex> lock(abortMutex_);
  if (aborted_.load()) return;
  std::snprintf(abortedWhy_, sizeof abortedWhy_, "%s", why == nullptr ? "aborted" : why);
  aborted_.store(true);
  endWaits();
}

void Group::wait(const char *what, const std::function<bool()> &ready) {
  const uint64_t start = monotonicNs();
  for (;;) {
    if (ready()) return;
    if (hostSignals_ != nullptr) check();
    if (aborted_.load()) {
      const std::lock_guard<std::mutex> lock(abortMutex_);
      throw Failure(FUSCO_E_PEER_TIMEOUT, "%s", abortedWhy_);
    }
    const uint64_t now = monotonicNs();
    for (uint32_t i = 0; mailbox_ != nullptr && i < neighbors_.count(); i++) {
      if (i == neighbors_.self || !mailbox_->hasFailed(i)) continue;
      throw givenUp("call " + std::to_string(call_.number) + ", " + what, i);
    }
    if (now >= until_) {
      throw Failure(FUSCO_E_PEER_TIMEOUT, "call %llu, %s: not done after %llu ms", call_.number, what,
                    deadlineNs_ / 1000000)
          .limited((now - until_ + deadlineNs_) / 1000000, deadlineNs_ / 1000000);
    }
    if (now - start > spinNs) usleep(napUs);
  }
}

void Group::waitFor(cudaEvent_t event, const char *what) {
  wait(what, [&] {
    const cudaError_t state = cudaEventQuery(event);
    if (state == cudaErrorNotReady) {
      if (comm_ != nullptr) stateOfComm(what);
      return false;
    }
    must(state, what);
    return true;
  });
}

void Group::must(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return;
  const std::lock_guard<std::mutex> lock(context_->mutex);
  context_->check(error, what);
}

void Group::record(const cuda::Event &event, cudaStream_t stream) {
  must(cudaEventRecord(event.get(), stream), "recording an event");
}

void Group::order(cudaStream_t stream, const cuda::Event &after) {
  must(cudaStreamWaitEvent(stream, after.get(), 0), "waiting for an event");
}

void Group::checkResult(abi::Result result, const char *what) {
  if (result == abi::success || result == abi::inProgress) return;
  const char *detail = library_.getLastError(comm_);
  if (detail == nullptr) detail = "";
  // A peer that died shows as an error of its connection.
  throw Failure(result == abi::remoteError ? FUSCO_E_PEER_TIMEOUT : FUSCO_E_BACKEND, "%s: NCCL: %s%s%.120s",
                what, library_.getErrorString(result), *detail != '\0' ? ": " : "", detail);
}

abi::Result Group::stateOfComm(const char *what) {
  abi::Result state = abi::success;
  checkResult(library_.commGetAsyncError(comm_, &state), what);
  checkResult(state, what);
  return state;
}

void Group::settle(const char *what) {
  wait(what, [&] { return stateOfComm(what) != abi::inProgress; });
}

void Group::round(const std::function<void()> &issue) {
  checkResult(library_.groupStart(), "starting a round");
  try {
    issue();
  } catch (...) {
    library_.groupEnd();
    throw;
  }
  checkResult(library_.groupEnd(), "a round on the wire");
  settle("a round on the wire");
}

void Group::send(const void *from, uint64_t bytes, uint32_t peer) {
  checkResult(library_.send(from, bytes, abi::uint8Type, static_cast<int>(peer), comm_, wireStream()),
              "sending");
}

void Group::receive(void *to, uint64_t bytes, uint32_t peer) {
  checkResult(library_.recv(to, bytes, abi::uint8Type, static_cast<int>(peer), comm_, wireStream()),
              "receiving");
}

void Group::gather(const void *local, void *all, uint64_t bytes) {
  checkResult(library_.allGather(local, all, bytes, abi::uint8Type, comm_, wireStream()), "gathering");
}

void Group::throughDevice(const void *sent, uint64_t sentBytes, void *received, uint64_t receivedBytes,
                          const char *what,
                          const std::function<void(const uint8_t *from, uint8_t *to)> &issue) {
  uint8_t *from = arena(Use::sendRing).atLeast(sentBytes + 1);
  uint8_t *to = arena(Use::receiveRing).atLeast(receivedBytes + 1);
  cuda::Event done;
  done.create(device(), cuda::Timing::off);
  must(cudaMemcpyAsync(from, sent, sentBytes, cudaMemcpyHostToDevice, wireStream()), what);
  issue(from, to);
  must(cudaMemcpyAsync(received, to, receivedBytes, cudaMemcpyDeviceToHost, wireStream()), what);
  record(done, wireStream());
  waitFor(done.get(), what);
}

void Group::gatherOnHost(const void *local, void *all, uint64_t bytes, const char *what) {
  if (hostSwap_ == nullptr) {
    throughDevice(local, bytes, all, neighbors_.ranks * bytes, what,
                  [&](const uint8_t *from, uint8_t *to) { round([&] { gather(from, to, bytes); }); });
    return;
  }
  const std::vector<Part> parts(neighbors_.ranks, {0, bytes});
  hostSwap_->run(call_, local, parts, waiting(what), [&](uint32_t rank, uint64_t given) {
    if (given != bytes) throw differentSize(rank, given, bytes);
    return static_cast<uint8_t *>(all) + rank * bytes;
  });
}

void Group::swapOnHost(const void *sent, const std::vector<uint64_t> &sendBytes, void *received,
                       const std::vector<uint64_t> &receiveBytes, const char *what) {
  const std::vector<uint64_t> receiveAt = startsOf(receiveBytes);
  const std::vector<uint64_t> sendAt = startsOf(sendBytes);
  if (hostSwap_ == nullptr) {
    throughDevice(sent, sendAt.back(), received, receiveAt.back(), what,
                  [&](const uint8_t *from, uint8_t *to) { swap(from, sendBytes, to, receiveBytes); });
    return;
  }
  std::vector<Part> parts;
  for (uint32_t rank = 0; rank < neighbors_.ranks; rank++) parts.push_back({sendAt[rank], sendAt[rank + 1]});
  hostSwap_->run(call_, sent, parts, waiting(what), [&](uint32_t rank, uint64_t given) {
    if (given != receiveBytes[rank]) throw differentSize(rank, given, receiveBytes[rank]);
    return static_cast<uint8_t *>(received) + receiveAt[rank];
  });
}

void Group::swap(const uint8_t *from, const std::vector<uint64_t> &sendBytes, uint8_t *to,
                 const std::vector<uint64_t> &receiveBytes) {
  const std::vector<uint64_t> sendAt = startsOf(sendBytes);
  const std::vector<uint64_t> receiveAt = startsOf(receiveBytes);
  for (uint32_t offset = 1; offset < neighbors_.ranks; offset++) {
    const uint32_t target = (neighbors_.rank + offset) % neighbors_.ranks;
    const uint32_t source = (neighbors_.rank + neighbors_.ranks - offset) % neighbors_.ranks;
    if (sendBytes[target] == 0 && receiveBytes[source] == 0) continue;
    round([&] {
      if (sendBytes[target] > 0) send(from + sendAt[target], sendBytes[target], target);
      if (receiveBytes[source] > 0) receive(to + receiveAt[source], receiveBytes[source], source);
    });
  }
}

}  // namespace fusco::nccl
