#include <algorithm>
#include <iterator>

#include "cuda_context.hpp"
#include "failure.hpp"
#include "one_pass_exchange.hpp"

namespace fusco::cuda {

namespace {

// A device that reported one of these answers every later call with an error.
constexpr cudaError_t stickyErrors[] = {cudaErrorIllegalAddress,      cudaErrorLaunchFailure,
                                        cudaErrorLaunchTimeout,       cudaErrorHardwareStackError,
                                        cudaErrorIllegalInstruction,  cudaErrorMisalignedAddress,
                                        cudaErrorInvalidAddressSpace, cudaErrorInvalidPc,
                                        cudaErrorECCUncorrectable,    cudaErrorAssert};

bool isSticky(cudaError_t error) {
  return std::find(std::begin(stickyErrors), std::end(stickyErrors), error) != std::end(stickyErrors);
}

// A kept allocation serves a request for at least this share of it, or for little less.
constexpr uint64_t idleShare = 2;
constexpr uint64_t idleSlack = uint64_t{1} << 20;

// Of DevicesInOrder.
std::mutex devicesInOrder;

// Combine between devices is bound by the links: on two H100 eight SMs reach 99 % of what all do.
constexpr uint32_t enoughBetweenDevices = 16;

}  // namespace

DevicesInOrder::DevicesInOrder(const CudaContext &context) {
  if (context.groups().size() > 1) turn_ = std::unique_lock<std::mutex>(devicesInOrder);
}

void Event::Destroy::operator()(cudaEvent_t event) const {
  const OnDevice here(device);
  cudaEventDestroy(event);
}

void Event::create(uint32_t device, Timing timing) {
  const OnDevice here(device);
  cudaEvent_t event = nullptr;
  const cudaError_t error =
      cudaEventCreateWithFlags(&event, timing == Timing::on ? cudaEventDefault : cudaEventDisableTiming);
  if (error != cudaSuccess) throw Failure(FUSCO_E_BACKEND, "no event: %s", cudaGetErrorString(error));
  event_ = {event, {device}};
}

uint32_t deviceCount() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return static_cast<uint32_t>(count);
  (void)cudaGetLastError();
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (driver == 0) throw Failure(FUSCO_E_BACKEND, "no NVIDIA driver is installed");
    throw Failure(FUSCO_E_BACKEND, "the NVIDIA driver supports CUDA %d.%d, this build needs %d.%d",
                  driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10)
        .limited(static_cast<uint64_t>(driver), CUDART_VERSION);
  }
  if (error == cudaSuccess || error == cudaErrorNoDevice) {
    throw Failure(FUSCO_E_BACKEND, "the NVIDIA driver sees no GPU");
  }
  throw Failure(FUSCO_E_BACKEND, "CUDA does not start: %s", cudaGetErrorString(error));
}

CudaContext::CudaContext(uint32_t ranks, const uint32_t *devices) {
  if (ranks < 1 || ranks > maxRanks) {
    throw Failure(FUSCO_E_OPTION, "%u ranks; the cuda backend takes 1 to %u", ranks, maxRanks)
        .limited(ranks, maxRanks);
  }
  const uint32_t count = deviceCount();
  fusco_context_options options{};
  options.threads = 1;
  host = std::make_shared<fusco::Context>(options);
  ready_.resize(ranks);
  own_.resize(ranks, nullptr);
  for (uint32_t rank = 0; rank < ranks; rank++) {
    const uint32_t device = devices == nullptr ? rank * std::min(count, ranks) / ranks : devices[rank];
    if (device >= count) {
      throw Failure(FUSCO_E_OPTION, "rank %u is on device %u of %u", rank, device, count)
          .atRank(rank)
          .limited(device, count);
    }
    device_.push_back(device);
    groupOf(device).ranks.push_back(rank);
    const OnDevice here(device);
    check(cudaStreamCreateWithFlags(&own_[rank], cudaStreamNonBlocking), "creating a stream");
    ready_[rank].create(device, Timing::off);
  }
  streams_ = own_;
  openPeers();
  limitSms(0);
}

DeviceGroup &CudaContext::groupOf(uint32_t device) {
  for (DeviceGroup &group : groups_) {
    if (group.device == device) return group;
  }
  const OnDevice here(device);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, static_cast<int>(device)), "asking for a device's properties");
  if (properties.major < 9) {
    throw Failure(FUSCO_E_BACKEND, "device %u (%.60s) has compute capability %d.%d; the kernels need 9.0",
                  device, properties.name, properties.major, properties.minor);
  }
  DeviceGroup group{device, {}, 0, {}, {}};
  group.limits.sms = static_cast<uint32_t>(properties.multiProcessorCount);
  group.limits.sharedBytes = static_cast<uint32_t>(properties.sharedMemPerBlockOptin);
  group.limits.sharedBytesPerSm = static_cast<uint32_t>(properties.sharedMemPerMultiprocessor);
  group.allSms = group.limits.sms;
  group.done.create(device, Timing::off);
  return groups_.emplace_back(std::move(group));
}

void CudaContext::openPeers() {
  for (const DeviceGroup &from : groups_) {
    for (const DeviceGroup &to : groups_) {
      if (from.device == to.device) continue;
      int can = 0;
      check(cudaDeviceCanAccessPeer(&can, static_cast<int>(from.device), static_cast<int>(to.device)),
            "asking for peer access");
      if (can == 0) {
        throw Failure(FUSCO_E_BACKEND, "device %u cannot reach the memory of device %u (P2P refused)",
                      from.device, to.device);
      }
      const OnDevice here(from.device);
      const cudaError_t error = cudaDeviceEnablePeerAccess(static_cast<int>(to.device), 0);
      if (error == cudaErrorPeerAccessAlreadyEnabled) {
        (void)cudaGetLastError();
        continue;
      }
      check(error, "enabling peer access");
    }
  }
}

CudaContext::~CudaContext() {
  for (const DeviceGroup &group : groups_) {
    const OnDevice here(group.device);
    cudaDeviceSynchronize();
    (void)cudaGetLastError();
  }
  signals_.reset();
  for (const auto &[address, bytes] : owned_) cudaFree(address);
  for (const auto &[bytes, idle] : idle_) cudaFree(idle.address);
  for (uint32_t rank = 0; rank < own_.size(); rank++) {
    if (own_[rank] == nullptr) continue;
    const OnDevice here(device_[rank]);
    cudaStreamDestroy(own_[rank]);
  }
  (void)cudaGetLastError();
}

void CudaContext::check(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();
  if (isSticky(error) && broken_.empty()) broken_ = std::string(what) + ": " + cudaGetErrorString(error);
  throw Failure(error == cudaErrorMemoryAllocation ? FUSCO_E_MEMORY : FUSCO_E_BACKEND, "%s: %s (%s)", what,
                cudaGetErrorString(error), cudaGetErrorName(error));
}

OnePassSignals &CudaContext::signals() {
  if (signals_ == nullptr) signals_ = std::make_unique<OnePassSignals>(*this);
  return *signals_;
}

void CudaContext::checkAlive() const {
  if (signals_ != nullptr) signals_->checkWaits();
  if (checkKernels != nullptr) checkKernels();
  if (broken_.empty()) return;
  throw Failure(FUSCO_E_BACKEND, "the GPU cannot be used any more by this process after %s", broken_.c_str());
}

void CudaContext::checkRank(uint32_t rank) const {
  if (rank >= ranks()) throw Failure(FUSCO_E_OPTION, "rank %u of %u", rank, ranks()).limited(rank, ranks());
}

// Throws E_OPTION if the stream is one of another device than the rank's. CUDA tells no device of a stream
// that is being captured, and the question would end the capture: work on a stream of another device then
// fails in its launch.
void CudaContext::checkStream(uint32_t rank, cudaStream_t stream) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &capture), "asking for a capture");
  if (capture != cudaStreamCaptureStatusNone) return;
  int device = -1;
  check(cudaStreamGetDevice(stream, &device), "asking for a stream's device");
  if (static_cast<uint32_t>(device) == device_[rank]) return;
  throw Failure(FUSCO_E_OPTION, "the stream is one of device %d, rank %u is on device %u", device, rank,
                device_[rank])
      .atRank(rank);
}

void CudaContext::setStream(uint32_t rank, cudaStream_t stream) {
  checkRank(rank);
  if (stream != nullptr) checkStream(rank, stream);
  streams_[rank] = stream == nullptr ? own_[rank] : stream;
}

void CudaContext::limitSms(uint32_t count) {
  hasSmLimit_ = count > 0;
  for (DeviceGroup &group : groups_) {
    const uint32_t all = group.allSms;
    group.limits.sms = count == 0 ? all : std::min(count, all);
    group.limits.maxCombineSms = count > 0            ? group.limits.sms
                                 : groups_.size() > 1 ? std::min(enoughBetweenDevices, all)
                                                      : 0;
  }
}

void *CudaContext::alloc(uint32_t rank, uint64_t bytes) {
  checkRank(rank);
  for (auto at = idle_.lower_bound(bytes);
       at != idle_.end() && at->first <= std::max(idleShare * bytes, bytes + idleSlack); ++at) {
    if (at->second.device != device_[rank]) continue;
    void *address = at->second.address;
    owned_[address] = at->first;
    idle_.erase(at);
    return address;
  }
  void *address = allocRaw(rank, bytes);
  owned_[address] = bytes;
  return address;
}

void CudaContext::keep(void *address) {
  if (owned_.count(address) > 0) kept_.insert(address);
}

void *CudaContext::allocRaw(uint32_t rank, uint64_t bytes) {
  const OnDevice here(device_[rank]);
  const RelaxedCapture relaxed;
  void *address = nullptr;
  const cudaError_t error = cudaMalloc(&address, std::max<uint64_t>(bytes, 1));
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    size_t free = 0;
    size_t total = 0;
    cudaMemGetInfo(&free, &total);
    throw Failure(FUSCO_E_MEMORY, "device %u: %llu bytes asked, %llu of %llu free", device_[rank], bytes,
                  free, total)
        .atRank(rank)
        .limited(bytes, free);
  }
  check(error, "allocating device memory");
  return address;
}

void CudaContext::free(void *address) {
  if (address == nullptr) return;
  const auto found = owned_.find(address);
  if (found == owned_.end()) throw Failure(FUSCO_E_BUFFER, "the memory to free was not allocated here");
  const uint64_t bytes = found->second;
  owned_.erase(found);
  reached_.clear();
  if (kept_.count(address) == 0) {
    check(cudaFree(address), "freeing device memory");
    return;
  }
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, address), "asking for a device");
  const OnDevice here(static_cast<uint32_t>(attributes.device));
  check(cudaDeviceSynchronize(), "freeing device memory");
  idle_.insert({bytes, {static_cast<uint32_t>(attributes.device), address}});
}

void CudaContext::checkReach(const char *name, uint32_t rank, const void *address) {
  auto owned = owned_.upper_bound(const_cast<void *>(address));
  if (owned != owned_.begin()) {
    --owned;
    if (static_cast<const char *>(address) < static_cast<char *>(owned->first) + owned->second) return;
  }
  if (reached_.count({address, rank}) > 0) return;
  cudaPointerAttributes attributes{};
  const cudaError_t error = cudaPointerGetAttributes(&attributes, address);
  (void)cudaGetLastError();
  const bool device = error == cudaSuccess &&
                      (attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged);
  const bool reaches = device && std::any_of(groups_.begin(), groups_.end(), [&](const DeviceGroup &group) {
                         return static_cast<int>(group.device) == attributes.device;
                       });
  if (!reaches) {
    throw Failure(FUSCO_E_BUFFER, "%s of rank %u is not memory that device %u reaches", name, rank,
                  device_[rank])
        .atRank(rank);
  }
  reached_.insert({address, rank});
}

void CudaContext::synchronize() {
  for (uint32_t rank = 0; rank < ranks(); rank++) {
    check(cudaStreamSynchronize(streams_[rank]), "waiting for a stream");
  }
  checkAlive();
}

void CudaContext::record(Event &event, cudaStream_t stream) {
  check(cudaEventRecord(event.get(), stream), "recording an event");
}

void CudaContext::wait(cudaStream_t stream, const Event &event) {
  check(cudaStreamWaitEvent(stream, event.get(), 0), "waiting for an event");
}

void CudaContext::ready(bool acrossDevices) {
  std::set<cudaStream_t> seen;
  for (uint32_t rank = 0; rank < ranks(); rank++) {
    const cudaStream_t from = streams_[rank];
    if (!seen.insert(from).second) continue;
    bool recorded = false;
    for (const DeviceGroup &group : groups_) {
      if (leader(group) == from || (!acrossDevices && group.device != device_[rank])) continue;
      if (!recorded) record(ready_[rank], from);
      recorded = true;
      wait(leader(group), ready_[rank]);
    }
  }
}

void CudaContext::orderLeaders() {
  if (groups_.size() < 2) return;
  for (DeviceGroup &group : groups_) record(group.done, leader(group));
  for (const DeviceGroup &group : groups_) {
    for (const DeviceGroup &other : groups_) {
      if (leader(other) != leader(group)) wait(leader(group), other.done);
    }
  }
}

void CudaContext::done(bool acrossDevices) {
  std::set<cudaStream_t> seen;
  const auto follows = [&](uint32_t rank, const DeviceGroup &group) {
    return streams_[rank] != leader(group) && (acrossDevices || group.device == device_[rank]);
  };
  for (DeviceGroup &group : groups_) {
    bool isFollowed = false;
    for (uint32_t rank = 0; rank < ranks(); rank++) isFollowed = isFollowed || follows(rank, group);
    if (isFollowed) record(group.done, leader(group));
  }
  for (uint32_t rank = 0; rank < ranks(); rank++) {
    if (!seen.insert(streams_[rank]).second) continue;
    for (const DeviceGroup &group : groups_) {
      if (follows(rank, group)) wait(streams_[rank], group.done);
    }
  }
}

}  // namespace fusco::cuda
