#include "registry.hpp"

#include <cuda.h>

#include <algorithm>

#include "failure.hpp"

namespace fusco::nccl {

using cuda::OnDevice;

namespace {

// How often the thread looks at failures without being woken.
constexpr uint64_t lookNs = 100000000;

// A function of the driver that the runtime lacks.
template <class F>
F *driverFunction(const char *name) {
  void *found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  if (cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result) != cudaSuccess ||
      found == nullptr) {
    throw Failure(FUSCO_E_BACKEND, "the NVIDIA driver has no %s", name);
  }
  return reinterpret_cast<F *>(found);
}

// The number of the allocation at an address, unique in this process; 0: none.
uint64_t allocationAt(uint64_t address) {
  static const auto pointerGetAttribute =
      driverFunction<decltype(cuPointerGetAttribute)>("cuPointerGetAttribute");
  unsigned long long id = 0;
  const CUresult result = pointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, CUdeviceptr{address});
  return result == CUDA_SUCCESS ? id : 0;
}

}  // namespace

Registry::Registry(Mailbox &mailbox, const Neighbors &neighbors, cuda::CudaContext &context,
                   std::function<void()> onFailure, std::function<void()> beforeMeeting)
    : mailbox_(mailbox),
      neighbors_(neighbors),
      context_(context),
      onFailure_(std::move(onFailure)),
      beforeMeeting_(std::move(beforeMeeting)) {
  for (uint32_t i = 0; i < neighbors.count(); i++) mappings_.emplace_back(maxSegments);
  thread_ = std::thread([this] { serve(); });
}

Registry::~Registry() {
  isStopping_.store(true);
  mailbox_.ring();
  thread_.join();
  closeRetired();
  for (auto &ofNeighbor : mappings_) {
    for (Mapping &mapping : ofNeighbor) {
      if (mapping.base.load() != nullptr) cudaIpcCloseMemHandle(mapping.base.load());
    }
  }
  (void)cudaGetLastError();
}

const Registry::Own *Registry::find(uint64_t address) {
  auto at = own_.upper_bound(address);
  if (at == own_.begin()) return nullptr;
  --at;
  return address < at->first + at->second.size ? &at->second : nullptr;
}

PostedBuffer Registry::share(const fusco_buffer &buffer, const Mailbox::Wait &wait) {
  if (buffer.bytes == 0 || buffer.data == nullptr) return {};
  const auto address = reinterpret_cast<uint64_t>(buffer.data);
  const Own *own = find(address);
  if (own == nullptr || own->id != allocationAt(address)) {
    beforeMeeting_();
    awaitAnswers(add(buffer), wait);
    own = find(address);
  }
  const uint64_t base = std::prev(own_.upper_bound(address))->first;
  return {own->segment, address - base, std::min<uint64_t>(buffer.bytes, own->size - (address - base))};
}

uint32_t Registry::add(const fusco_buffer &buffer) {
  static const auto getAddressRange = driverFunction<decltype(cuMemGetAddressRange)>("cuMemGetAddressRange");
  const auto address = reinterpret_cast<uint64_t>(buffer.data);
  CUdeviceptr base = 0;
  size_t size = 0;
  const uint64_t id = allocationAt(address);
  cudaIpcMemHandle_t handle{};
  if (id == 0 || getAddressRange(&base, &size, CUdeviceptr{address}) != CUDA_SUCCESS ||
      cudaIpcGetMemHandle(&handle, reinterpret_cast<void *>(base)) != cudaSuccess) {
    (void)cudaGetLastError();
    throw Failure(
        FUSCO_E_BUFFER,
        "memory at %p cannot be shared with the other ranks of this machine: it must come from cudaMalloc",
        buffer.data)
        .atRank(neighbors_.rank);
  }
  // What was at these addresses has been freed.
  for (auto at = own_.begin(); at != own_.end();) {
    const bool overlaps = at->first < base + size && base < at->first + at->second.size;
    if (overlaps) {
      mailbox_.announce(at->second.segment, nullptr);
      free_.push_back(at->second.segment);
    }
    at = overlaps ? own_.erase(at) : std::next(at);
  }
  if (free_.empty() && segments_ == maxSegments) {
    throw Failure(FUSCO_E_LIMIT, "rank %u shares more than %u allocations with the ranks of its machine",
                  neighbors_.rank, maxSegments)
        .atRank(neighbors_.rank)
        .limited(segments_ + 1, maxSegments);
  }
  const uint32_t segment = free_.empty() ? segments_++ : free_.back();
  if (!free_.empty()) free_.pop_back();
  static_assert(sizeof handle == handleBytes);
  mailbox_.announce(segment, reinterpret_cast<const uint8_t *>(&handle));
  own_[base] = {size, id, segment};
  // The context keeps memory that others have mapped when it is freed: it will be needed again, and another
  // allocation at the same address might not be mapped.
  context_.keep(reinterpret_cast<void *>(base));
  return segment;
}

void Registry::awaitAnswers(uint32_t segment, const Mailbox::Wait &wait) {
  Segment &shared = mailbox_.segment(neighbors_.self, segment);
  const uint64_t generation = shared.generation.load();
  for (uint32_t i = 0; i < neighbors_.count(); i++) {
    if (i == neighbors_.self) continue;
    uint64_t answer = 0;
    try {
      wait([&] {
        answer = shared.answer[i].load(std::memory_order_acquire);
        return answer >> 1 == generation;
      });
    } catch (Failure &failure) {
      if (failure.error.rank < 0) failure.atRank(neighbors_.rankAt[i]);
      throw;
    }
    if ((answer & 1) == 0) continue;
    throw Failure(FUSCO_E_BACKEND,
                  "the memory of rank %u does not open in rank %u (FUSCO_IPC=0 sends its rows through NCCL)",
                  neighbors_.rank, neighbors_.rankAt[i])
        .atRank(neighbors_.rankAt[i]);
  }
}

void Registry::unshare(const fusco_buffer &buffer) {
  const auto address = reinterpret_cast<uint64_t>(buffer.data);
  const Own *own = find(address);
  if (own == nullptr) return;
  mailbox_.announce(own->segment, nullptr);
  free_.push_back(own->segment);
  own_.erase(std::prev(own_.upper_bound(address)));
}

uint64_t Registry::addressAt(uint32_t neighbor, const PostedBuffer &buffer) const {
  if (buffer.bytes == 0) return 0;
  return mailbox_.segment(neighbors_.self, buffer.segment).mapped[neighbor] + buffer.offset;
}

uint8_t *Registry::mapped(uint32_t neighbor, const PostedBuffer &buffer) const {
  uint8_t *base = mappings_[neighbor][buffer.segment].base.load();
  return base == nullptr ? nullptr : base + buffer.offset;
}

void Registry::closeRetired() {
  const std::lock_guard<std::mutex> lock(retiredMutex_);
  for (uint8_t *base : retired_) cudaIpcCloseMemHandle(base);
  retired_.clear();
  (void)cudaGetLastError();
}

void Registry::serve() {
  const OnDevice here(context_.deviceOf(0));
  // Memory of others is mapped whatever other threads of this process capture.
  const cuda::RelaxedCapture relaxed;
  uint32_t seen = 0;
  while (!isStopping_.load()) {
    for (uint32_t neighbor = 0; neighbor < neighbors_.count(); neighbor++) {
      if (neighbor == neighbors_.self) continue;
      if (mailbox_.hasFailed(neighbor) || mailbox_.isGone(neighbor)) onFailure_();
      for (uint32_t index = 0; index < maxSegments; index++) map(neighbor, index);
    }
    mailbox_.sleep(seen, lookNs);
  }
}

void Registry::map(uint32_t neighbor, uint32_t index) {
  Segment &segment = mailbox_.segment(neighbor, index);
  Mapping &mapping = mappings_[neighbor][index];
  const uint32_t generation = segment.generation.load(std::memory_order_acquire);
  if (generation == mapping.generation) return;
  mapping.generation = generation;
  if (mapping.base.load() != nullptr) {
    const std::lock_guard<std::mutex> lock(retiredMutex_);
    retired_.push_back(mapping.base.exchange(nullptr));
  }
  if (segment.isShared == 0) return;
  cudaIpcMemHandle_t handle{};
  std::memcpy(&handle, segment.handle, sizeof handle);
  void *base = nullptr;
  if (cudaIpcOpenMemHandle(&base, handle, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess) {
    (void)cudaGetLastError();
    base = nullptr;
  }
  mapping.base.store(static_cast<uint8_t *>(base));
  mailbox_.answer(neighbor, index, generation, reinterpret_cast<uint64_t>(base));
}

}  // namespace fusco::nccl
