#include "peer_memory.hpp"

#include <algorithm>

#include "nccl_group.hpp"

namespace fusco::nccl {

using cuda::DeviceSignals;
using cuda::OnePassCommon;
using cuda::PeerRows;

namespace {

constexpr uint64_t align = 256;

uint64_t aligned(uint64_t bytes) { return (bytes + align - 1) / align * align; }

// Byte offsets in the memory that grows.
struct Layout {
  uint64_t flags = 0, pushed, landing, counts, arrivals, bytes;

  explicit Layout(const PeerNeed &need) {
    pushed = aligned(need.flags * sizeof(uint32_t));
    landing = pushed + aligned(2 * need.pushedEntries * sizeof(uint64_t));
    counts = landing + aligned(need.landingBytes);
    arrivals = counts + aligned(need.facts.counts);
    bytes = arrivals + aligned(need.facts.arrivals);
  }
};

// A little more than is needed now, so that the next plan's need is met, too.
uint64_t roomy(uint64_t need, uint64_t capacity) { return need <= capacity ? capacity : need + need / 8; }

}  // namespace

PeerMemory::PeerMemory(Group &group) : group_(group) {
  fusco_nccl_call call = fusco_sized<fusco_nccl_call>();
  signals_ = allocate(call, sizeof(DeviceSignals), sizeof(DeviceSignals));
  const uint64_t bytes = cuda::maxPeerBuffers * cuda::maxRanks * sizeof(uint64_t);
  group_.must(cudaMalloc(reinterpret_cast<void **>(&addresses_), bytes), "allocating a table of addresses");
  allocated_.push_back(addresses_);
  group_.must(cudaStreamCreateWithFlags(&aborts_, cudaStreamNonBlocking), "creating a stream");
  group_.must(cudaMallocHost(reinterpret_cast<void **>(&poison_), sizeof *poison_), "allocating a flag");
  // It names no culprits: nothing else writes those of this rank in its own inbox, which are zero.
  *poison_ = cuda::failureAborted << 16 | group.neighbors().self;
}

PeerMemory::~PeerMemory() {
  for (void *memory : allocated_) cudaFree(memory);
  cudaStreamDestroy(aborts_);
  cudaFreeHost(poison_);
  (void)cudaGetLastError();
}

PeerMemory::OfRanks PeerMemory::allocate(const fusco_nccl_call &call, uint64_t bytes, uint64_t zeroed) {
  void *memory = nullptr;
  {
    const std::lock_guard<std::mutex> lock(group_.context().mutex);
    memory = group_.context().allocRaw(0, bytes);
  }
  allocated_.push_back(memory);
  group_.must(cudaMemsetAsync(memory, 0, zeroed, group_.workStream()), "clearing signals");
  group_.must(cudaStreamSynchronize(group_.workStream()), "clearing signals");
  uint64_t waitNs = 0;
  const std::vector<uint32_t> rows(group_.neighbors().count(), 1);
  return group_.shareBuffers(call, {{{memory, bytes}, bytes}}, rows, waitNs)[0];
}

void PeerMemory::reserve(const fusco_nccl_call &call, const PeerNeed &need) {
  if (need.flags <= capacity_.flags && need.pushedEntries <= capacity_.pushedEntries &&
      need.landingBytes <= capacity_.landingBytes && need.facts.counts <= capacity_.facts.counts &&
      need.facts.arrivals <= capacity_.facts.arrivals) {
    return;
  }
  group_.refuseSharingInCapture();
  // Ranks that make another call need no memory, and would not come.
  compareCalls(call.digest);
  const PeerNeed grown = {roomy(need.flags, capacity_.flags),
                          roomy(need.pushedEntries, capacity_.pushedEntries),
                          roomy(need.landingBytes, capacity_.landingBytes),
                          {std::max(need.facts.counts, capacity_.facts.counts),
                           std::max(need.facts.arrivals, capacity_.facts.arrivals)}};
  const Layout layout(grown);
  grown_ = allocate(call, layout.bytes, layout.landing);
  capacity_ = grown;
}

void PeerMemory::compareCalls(uint64_t digest) {
  cuda::EdgeParams edge{};
  edge.common = common({}, 1, digest);
  edge.addresses = addresses_;
  const cudaStream_t stream = group_.context().stream(0);
  group_.must(cuda::launchBeginEdge(edge, stream), "comparing calls");
  group_.must(cuda::launchEndEdge(edge.common, stream), "comparing calls");
  cuda::Event done;
  done.create(group_.device(), cuda::Timing::off);
  group_.record(done, stream);
  group_.waitFor(done.get(), "comparing calls");
  group_.check();
}

OnePassCommon PeerMemory::common(const cuda::OnePassTables &tables, uint32_t chunkTokens,
                                 uint64_t digest) const {
  const Neighbors &neighbors = group_.neighbors();
  OnePassCommon common{};
  common.plan = tables;
  common.control = &reinterpret_cast<DeviceSignals *>(signals_[neighbors.self])->control;
  common.failure = &group_.waitFailure();
  // A little less than the host waits, so that the error names the late rank.
  common.deadlineNs = group_.deadlineNs() / 16 * 15;
  common.digest = digest;
  common.device = neighbors.self;
  common.devices = neighbors.count();
  common.chunkTokens = chunkTokens;
  common.hasProcesses = 1;
  for (uint32_t i = 0; i < neighbors.count(); i++) {
    common.inbox[i] = &reinterpret_cast<DeviceSignals *>(signals_[i])->inbox;
    if (!grown_.empty()) common.flags[i] = reinterpret_cast<uint32_t *>(grown_[i]);
  }
  return common;
}

void PeerMemory::addSum(cuda::SumParams &params) const {
  const Layout layout(capacity_);
  params.pushedEntries = capacity_.pushedEntries;
  for (size_t i = 0; i < grown_.size(); i++) {
    params.pushed[i] = reinterpret_cast<uint64_t *>(grown_[i] + layout.pushed);
    params.landing[i] = grown_[i] + layout.landing;
  }
}

void PeerMemory::addGradient(cuda::CombineGradientParams &params) const {
  const Layout layout(capacity_);
  params.pushedEntries = capacity_.pushedEntries;
  for (size_t i = 0; i < grown_.size(); i++) {
    params.pushed[i] = reinterpret_cast<uint64_t *>(grown_[i] + layout.pushed);
  }
}

cuda::FactInbox PeerMemory::factInbox(uint32_t neighbor) const {
  const Layout layout(capacity_);
  return {grown_[neighbor] + layout.counts, grown_[neighbor] + layout.arrivals};
}

void PeerMemory::endWaits() noexcept {
  const cuda::OnDevice here(group_.device());
  uint32_t *poison = &reinterpret_cast<DeviceSignals *>(signals_[group_.neighbors().self])->inbox.poison;
  // A copy proceeds while kernels wait.
  cudaMemcpyAsync(poison, poison_, sizeof *poison_, cudaMemcpyHostToDevice, aborts_);
  (void)cudaGetLastError();
}

uint32_t PeerMemory::otherCaller(uint32_t epoch, uint64_t digest) const {
  const uint32_t self = group_.neighbors().self;
  cuda::Inbox inbox{};
  const auto *from = &reinterpret_cast<DeviceSignals *>(signals_[self])->inbox;
  if (cudaMemcpyAsync(&inbox, from, sizeof inbox, cudaMemcpyDeviceToHost, group_.workStream()) ==
      cudaSuccess) {
    cudaStreamSynchronize(group_.workStream());
  }
  for (uint32_t i = 0; i < group_.neighbors().count(); i++) {
    if (i != self && inbox.ready[i] >= epoch && inbox.message[epoch % 2][i].digest != digest) return i;
  }
  return self == 0 ? 1 : 0;
}

PeerRows PeerMemory::rows() const {
  const uint32_t self = group_.neighbors().self;
  return {addresses_, &reinterpret_cast<DeviceSignals *>(signals_[self])->control.failed};
}

}  // namespace fusco::nccl
