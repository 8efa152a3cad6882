#include "nccl_group.hpp"

#include <cuda.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace fusco::nccl {

using cuda::OnDevice;

namespace {

// A wait first looks again at once, then sleeps in between.
constexpr uint64_t spinNs = 500000;
constexpr useconds_t napUs = 20;
// What closing a communicator may take before it is aborted.
constexpr uint64_t closingNs = 2000000000;

std::shared_ptr<cuda::CudaContext> contextOf(const fusco_nccl_group_desc &desc) {
  if (desc.context == nullptr || desc.context->shared->ranks() != 1) {
    throw Failure(FUSCO_E_OPTION, "a group needs a context of one rank");
  }
  return desc.context->shared;
}

const fusco_nccl_group_desc &checked(const fusco_nccl_group_desc &desc) {
  if (desc.ranks < 1 || desc.ranks > FUSCO_MAX_RANKS || desc.rank >= desc.ranks || desc.hosts == nullptr) {
    throw Failure(FUSCO_E_RANKS, "rank %u of %u", desc.rank, desc.ranks).limited(desc.rank, desc.ranks);
  }
  if (desc.step_bytes < 1) throw Failure(FUSCO_E_OPTION, "steps of no bytes");
  if (desc.deadline_ns < 1000000) throw Failure(FUSCO_E_OPTION, "a deadline below a millisecond");
  return desc;
}

// Functions of the driver that the runtime lacks.
struct Driver {
  using GetAddressRange = CUresult(CUdeviceptr *, size_t *, CUdeviceptr);
  using PointerGetAttribute = CUresult(void *, CUpointer_attribute, CUdeviceptr);
  GetAddressRange *getAddressRange = nullptr;
  PointerGetAttribute *pointerGetAttribute = nullptr;

  Driver() {
    find("cuMemGetAddressRange", getAddressRange);
    find("cuPointerGetAttribute", pointerGetAttribute);
  }

  template <class F>
  static void find(const char *name, F *&function) {
    void *found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    if (cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result) != cudaSuccess ||
        found == nullptr) {
      throw Failure(FUSCO_E_BACKEND, "the NVIDIA driver has no %s", name);
    }
    function = reinterpret_cast<F *>(found);
  }
};

const Driver &driver() {
  static const Driver found;
  return found;
}

}  // namespace

uint64_t monotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

Arena::~Arena() {
  const OnDevice here(context_.deviceOf(0));
  cudaFree(memory_);
  (void)cudaGetLastError();
}

uint8_t *Arena::atLeast(uint64_t bytes) {
  if (bytes <= bytes_) return memory_;
  const std::lock_guard<std::mutex> lock(context_.mutex);
  const OnDevice here(context_.deviceOf(0));
  context_.check(cudaFree(memory_), "freeing rows of the wire");
  memory_ = nullptr;
  bytes_ = 0;
  memory_ = static_cast<uint8_t *>(context_.allocRaw(0, bytes));
  bytes_ = bytes;
  return memory_;
}

Group::Group(const fusco_nccl_group_desc &desc)
    : library_(openLibrary(nullptr)),
      context_(contextOf(checked(desc))),
      near_(desc.ranks, desc.rank, desc.hosts),
      deadlineNs_(desc.deadline_ns),
      stepBytes_(desc.step_bytes),
      mappings_(near_.local.size()) {
  const OnDevice here(device());
  enter({0, 0});
  for (uint32_t i = 0; i < static_cast<uint32_t>(Use::count); i++) {
    arenas_.push_back(std::make_unique<Arena>(*context_));
  }
  try {
    openStreams();
    must(cudaHostAlloc(reinterpret_cast<void **>(&abortFlag_), sizeof *abortFlag_, cudaHostAllocMapped),
         "allocating a flag");
    *abortFlag_ = 0;
    must(cudaHostGetDevicePointer(reinterpret_cast<void **>(&abortFlagDevice_), abortFlag_, 0),
         "mapping a flag");
    if (hasNeighbours()) {
      openFlags();
      if (desc.board == nullptr) throw Failure(FUSCO_E_OPTION, "ranks that share a host need a board");
      board_ = std::make_unique<Board>(
          desc.board, static_cast<uint32_t>(near_.local.size()), near_.self,
          [this](const std::function<bool()> &ready) { wait("meeting the ranks of this host", ready); });
    }
    abi::UniqueId id;
    std::memcpy(id.internal, desc.id, sizeof id.internal);
    abi::Config config;
    config.blocking = 0;
    if (desc.max_ctas > 0) config.maxCtas = static_cast<int>(desc.max_ctas);
    checkResult(library_.commInitRankConfig(&comm_, static_cast<int>(near_.ranks), id,
                                            static_cast<int>(near_.rank), &config),
                "making a communicator");
    settle("making a communicator");
    if (hasNeighbours()) {
      // Their flags: a meeting like any other.
      std::vector<std::vector<uint8_t *>> mapped;
      const uint64_t bytes = 2 * maxNeighbours * sizeof(uint64_t);
      meet({1, 0}, {{flags_, bytes}}, {bytes}, std::vector<uint32_t>(near_.local.size(), 1), mapped, nullptr);
      for (uint8_t *flags : mapped[0]) peerFlags_.push_back(reinterpret_cast<uint64_t *>(flags));
    }
  } catch (const Failure &failure) {
    fail(failure);
    closeComm();
    closePeers();
    for (const cudaStream_t stream : streams_) {
      if (stream != nullptr) cudaStreamDestroy(stream);
    }
    cudaFreeHost(abortFlag_);
    cudaFree(flags_);
    (void)cudaGetLastError();
    throw;
  }
}

Group::~Group() {
  const OnDevice here(device());
  // After a failure kernels and NCCL's operations end by themselves.
  closeComm();
  for (const cudaStream_t stream : streams_) cudaStreamSynchronize(stream);
  for (const cudaStream_t stream : streams_) cudaStreamDestroy(stream);
  closePeers();
  cudaFreeHost(abortFlag_);
  cudaFree(flags_);
  (void)cudaGetLastError();
}

// The wire comes first: a step that waits for a multiprocessor keeps its peers waiting as well.
void Group::openStreams() {
  int least = 0;
  int greatest = 0;
  must(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities");
  for (cudaStream_t &stream : streams_) {
    const int priority = &stream == &streams_[1] ? greatest : least;
    must(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority), "creating a stream");
  }
}

void Group::openFlags() {
  const uint64_t bytes = 2 * maxNeighbours * sizeof(uint64_t);
  {
    const std::lock_guard<std::mutex> lock(context_->mutex);
    flags_ = static_cast<uint64_t *>(context_->allocRaw(0, bytes));
  }
  must(cudaMemset(flags_, 0, bytes), "clearing flags");
  must(cudaDeviceSynchronize(), "clearing flags");
}

void Group::closeMappings(uint32_t neighbour) noexcept {
  for (const auto &[address, mapping] : mappings_[neighbour]) cudaIpcCloseMemHandle(mapping.base);
  mappings_[neighbour].clear();
  (void)cudaGetLastError();
}

void Group::closePeers() noexcept {
  for (uint32_t i = 0; i < mappings_.size(); i++) closeMappings(i);
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

void Group::enter(const fusco_nccl_step &step) {
  if (broken_) throw Failure(FUSCO_E_PEER_TIMEOUT, "the group was given up: %.200s", brokenBy_.c_str());
  context_->checkAlive();
  entered_ = true;
  step_ = step.number;
  until_ = monotonicNs() + deadlineNs_;
}

void Group::fail(const Failure &failure) noexcept {
  if (broken_) return;
  broken_ = true;
  try {
    brokenBy_ = failure.error.message;
  } catch (...) {
  }
  if (abortFlag_ != nullptr) *reinterpret_cast<volatile uint32_t *>(abortFlag_) = 1;
  if (board_ != nullptr) board_->fail();
  const OnDevice here(device());
  closeComm();
}

void Group::abort(const char *why) noexcept {
  const std::lock_guard<std::mutex> lock(abortMutex_);
  if (aborted_.load()) return;
  try {
    abortedWhy_ = why == nullptr ? "aborted" : why;
  } catch (...) {
  }
  aborted_.store(true);
}

void Group::wait(const char *what, const std::function<bool()> &ready) {
  const uint64_t start = monotonicNs();
  for (;;) {
    if (ready()) return;
    if (aborted_.load()) {
      const std::lock_guard<std::mutex> lock(abortMutex_);
      throw Failure(FUSCO_E_PEER_TIMEOUT, "%s", abortedWhy_.c_str());
    }
    const uint64_t now = monotonicNs();
    for (uint32_t i = 0; board_ != nullptr && i < near_.local.size(); i++) {
      if (i != near_.self && board_->hasFailed(i)) {
        throw Failure(FUSCO_E_PEER_TIMEOUT, "step %llu, %s: rank %u has given up",
                      static_cast<unsigned long long>(step_), what, near_.local[i])
            .atRank(near_.local[i]);
      }
    }
    if (now >= until_) {
      throw Failure(FUSCO_E_PEER_TIMEOUT, "step %llu, %s: not done after %llu ms",
                    static_cast<unsigned long long>(step_), what,
                    static_cast<unsigned long long>(deadlineNs_ / 1000000))
          .limited((now - until_ + deadlineNs_) / 1000000, deadlineNs_ / 1000000);
    }
    if (now - start > spinNs) usleep(napUs);
  }
}

void Group::waitFor(cudaEvent_t event, const char *what) {
  wait(what, [&] {
    const cudaError_t state = cudaEventQuery(event);
    if (state == cudaErrorNotReady) {
      if (comm_ == nullptr) return false;
      abi::Result result = abi::success;
      checkResult(library_.commGetAsyncError(comm_, &result), what);
      checkResult(result, what);
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
  // A peer that died shows as an error of its connection.
  throw Failure(result == abi::remoteError ? FUSCO_E_PEER_TIMEOUT : FUSCO_E_BACKEND, "%s: NCCL: %s%s%.120s",
                what, library_.getErrorString(result), detail != nullptr && *detail != '\0' ? ": " : "",
                detail == nullptr ? "" : detail);
}

void Group::settle(const char *what) {
  wait(what, [&] {
    abi::Result state = abi::success;
    checkResult(library_.commGetAsyncError(comm_, &state), what);
    checkResult(state, what);
    return state != abi::inProgress;
  });
}

void Group::together(const std::function<void()> &issue) {
  checkResult(library_.groupStart(), "starting a step");
  try {
    issue();
  } catch (...) {
    library_.groupEnd();
    throw;
  }
  checkResult(library_.groupEnd(), "a step on the wire");
  settle("a step on the wire");
}

void Group::send(const void *from, uint64_t bytes, uint32_t peer) {
  checkResult(library_.send(from, bytes, abi::uint8Type, static_cast<int>(peer), comm_, wire()), "sending");
}

void Group::receive(void *to, uint64_t bytes, uint32_t peer) {
  checkResult(library_.recv(to, bytes, abi::uint8Type, static_cast<int>(peer), comm_, wire()), "receiving");
}

void Group::allGather(const void *own, void *all, uint64_t bytes) {
  together(
      [&] { checkResult(library_.allGather(own, all, bytes, abi::uint8Type, comm_, wire()), "gathering"); });
}

void Group::swap(const uint8_t *from, const std::vector<uint64_t> &sendBytes, uint8_t *to,
                 const std::vector<uint64_t> &receiveBytes) {
  std::vector<uint64_t> sendAt(near_.ranks + 1, 0);
  std::vector<uint64_t> receiveAt(near_.ranks + 1, 0);
  for (uint32_t peer = 0; peer < near_.ranks; peer++) {
    sendAt[peer + 1] = sendAt[peer] + sendBytes[peer];
    receiveAt[peer + 1] = receiveAt[peer] + receiveBytes[peer];
  }
  for (uint32_t offset = 1; offset < near_.ranks; offset++) {
    const uint32_t target = (near_.rank + offset) % near_.ranks;
    const uint32_t source = (near_.rank + near_.ranks - offset) % near_.ranks;
    if (sendBytes[target] == 0 && receiveBytes[source] == 0) continue;
    together([&] {
      if (sendBytes[target] > 0) send(from + sendAt[target], sendBytes[target], target);
      if (receiveBytes[source] > 0) receive(to + receiveAt[source], receiveBytes[source], source);
    });
  }
}

PostedBuffer Group::describe(const fusco_buffer &buffer) {
  PostedBuffer posted{};
  if (buffer.bytes == 0 || buffer.data == nullptr) return posted;
  CUdeviceptr base = 0;
  size_t size = 0;
  const auto address = reinterpret_cast<CUdeviceptr>(buffer.data);
  unsigned long long allocation = 0;
  cudaIpcMemHandle_t handle{};
  const bool found =
      driver().getAddressRange(&base, &size, address) == CUDA_SUCCESS &&
      driver().pointerGetAttribute(&allocation, CU_POINTER_ATTRIBUTE_BUFFER_ID, address) == CUDA_SUCCESS &&
      cudaIpcGetMemHandle(&handle, reinterpret_cast<void *>(base)) == cudaSuccess;
  if (!found) {
    (void)cudaGetLastError();
    throw Failure(
        FUSCO_E_BUFFER,
        "memory at %p cannot be shared with the other ranks of this host: it must come from cudaMalloc",
        buffer.data)
        .atRank(near_.rank);
  }
  static_assert(sizeof handle == handleBytes);
  std::memcpy(posted.handle, &handle, sizeof handle);
  posted.allocation = allocation;
  posted.base = base;
  posted.size = size;
  posted.offset = address - base;
  posted.bytes = std::min<uint64_t>(buffer.bytes, size - posted.offset);
  return posted;
}

uint8_t *Group::open(uint32_t neighbour, const PostedBuffer &posted) {
  std::map<uint64_t, Mapping> &known = mappings_[neighbour];
  const auto found = known.find(posted.base);
  if (found != known.end() && found->second.allocation == posted.allocation) {
    return found->second.base + posted.offset;
  }
  // What lay there before was freed by the neighbour: its place is needed.
  for (auto at = known.begin(); at != known.end();) {
    const bool overlaps = at->first < posted.base + posted.size && posted.base < at->first + at->second.size;
    if (overlaps) must(cudaIpcCloseMemHandle(at->second.base), "closing a neighbour's memory");
    at = overlaps ? known.erase(at) : std::next(at);
  }
  cudaIpcMemHandle_t handle{};
  std::memcpy(&handle, posted.handle, sizeof handle);
  void *base = nullptr;
  const cudaError_t error = cudaIpcOpenMemHandle(&base, handle, cudaIpcMemLazyEnablePeerAccess);
  if (error == cudaErrorAlreadyMapped) {
    (void)cudaGetLastError();
    return nullptr;
  }
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    throw Failure(
        FUSCO_E_BACKEND,
        "the memory of rank %u does not open in rank %u: %s (FUSCO_IPC=0 sends its rows through NCCL)",
        near_.local[neighbour], near_.rank, cudaGetErrorString(error))
        .atRank(near_.local[neighbour]);
  }
  known[posted.base] = {posted.allocation, posted.size, static_cast<uint8_t *>(base)};
  return static_cast<uint8_t *>(base) + posted.offset;
}

bool Group::openAll(uint32_t neighbour, const Post &post, const std::vector<uint64_t> &needed,
                    std::vector<std::vector<uint8_t *>> &mapped) {
  for (size_t b = 0; b < needed.size(); b++) {
    if (needed[b] == 0) continue;
    mapped[b][neighbour] = open(neighbour, post.buffer[b]);
    if (mapped[b][neighbour] == nullptr) return false;
  }
  return true;
}

void Group::meet(const fusco_nccl_step &step, const std::vector<fusco_buffer> &buffers,
                 const std::vector<uint64_t> &rowBytes, const std::vector<uint32_t> &rows,
                 std::vector<std::vector<uint8_t *>> &mapped, uint64_t *waitNs) {
  const auto neighbours = static_cast<uint32_t>(near_.local.size());
  mapped.assign(buffers.size(), std::vector<uint8_t *>(neighbours, nullptr));
  for (size_t b = 0; b < buffers.size(); b++) mapped[b][near_.self] = static_cast<uint8_t *>(buffers[b].data);
  if (!hasNeighbours()) return;
  if (buffers.size() > maxPosted) {
    throw Failure(FUSCO_E_LIMIT, "%zu buffers in one exchange", buffers.size())
        .limited(buffers.size(), maxPosted);
  }
  Post &own = board_->own(step.number);
  own.digest = step.digest;
  own.count = static_cast<uint32_t>(buffers.size());
  for (size_t b = 0; b < buffers.size(); b++) own.buffer[b] = describe(buffers[b]);
  board_->publish(step.number);
  const uint64_t start = monotonicNs();
  for (uint32_t i = 0; i < neighbours; i++) {
    if (i == near_.self) continue;
    char what[96];
    std::snprintf(what, sizeof what, "waiting for rank %u, which was last in step %llu", near_.local[i],
                  static_cast<unsigned long long>(board_->lastStep(i)));
    wait(what, [&] { return board_->has(i, step.number); });
    const Post &post = board_->of(i, step.number);
    if (post.digest != step.digest || post.count != buffers.size()) {
      throw Failure(FUSCO_E_PEER_MISMATCH, "rank %u does something else than rank %u in step %llu",
                    near_.local[i], near_.rank, static_cast<unsigned long long>(step.number))
          .atRank(near_.local[i]);
    }
    std::vector<uint64_t> needed(buffers.size());
    for (size_t b = 0; b < buffers.size(); b++) {
      needed[b] = rows[i] * rowBytes[b];
      const uint64_t given = post.buffer[b].bytes;
      if (given >= needed[b]) continue;
      throw Failure(FUSCO_E_BUFFER, "buffer %zu of rank %u has %llu bytes, %llu are needed", b,
                    near_.local[i], static_cast<unsigned long long>(given),
                    static_cast<unsigned long long>(needed[b]))
          .atRank(near_.local[i])
          .limited(given, needed[b]);
    }
    // Allocations share blocks of memory, and one that the neighbour has freed may keep its block from being
    // mapped again.
    if (openAll(i, post, needed, mapped)) continue;
    closeMappings(i);
    if (openAll(i, post, needed, mapped)) continue;
    throw Failure(FUSCO_E_BACKEND, "the memory of rank %u is mapped by something else in rank %u",
                  near_.local[i], near_.rank)
        .atRank(near_.local[i]);
  }
  if (waitNs != nullptr) *waitNs += monotonicNs() - start;
}

uint64_t Group::lateness(const fusco_nccl_step &step, uint32_t neighbour) const {
  if (neighbour == near_.self || board_ == nullptr) return 0;
  const uint64_t own = board_->of(near_.self, step.number).enteredNs;
  const uint64_t theirs = board_->of(neighbour, step.number).enteredNs;
  return theirs > own ? theirs - own : 0;
}

void Group::edge(Edge edge) {
  if (!hasNeighbours()) return;
  if (edge == readyEdge) epoch_++;
  FlagParams params{};
  params.neighbours = static_cast<uint32_t>(near_.local.size());
  params.self = near_.self;
  params.epoch = epoch_;
  params.own = flags_ + edge * maxNeighbours;
  params.abort = abortFlagDevice_;
  for (uint32_t i = 0; i < params.neighbours; i++) {
    params.theirs[i] = peerFlags_[i] + edge * maxNeighbours + near_.self;
  }
  must(launchFlags(params, work()), "signalling neighbours");
}

}  // namespace fusco::nccl
