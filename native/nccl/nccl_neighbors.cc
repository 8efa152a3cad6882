// The part of a group that concerns ranks of its machine: their memory, and the flags that order its use.

#include <cuda.h>

#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "nccl_group.hpp"

namespace fusco::nccl {

namespace {

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

}  // namespace

void Group::openFlags() {
  flags_ = reinterpret_cast<uint64_t *>(arena(Use::flags).atLeast(flagsBytes));
  must(cudaMemset(flags_, 0, flagsBytes), "clearing flags");
  must(cudaDeviceSynchronize(), "clearing flags");
}

void Group::closeMappings(uint32_t neighbor) noexcept {
  for (const auto &[address, mapping] : mappings_[neighbor]) cudaIpcCloseMemHandle(mapping.base);
  mappings_[neighbor].clear();
  (void)cudaGetLastError();
}

PostedBuffer Group::describe(const fusco_buffer &buffer) {
  static const auto getAddressRange = driverFunction<decltype(cuMemGetAddressRange)>("cuMemGetAddressRange");
  static const auto pointerGetAttribute =
      driverFunction<decltype(cuPointerGetAttribute)>("cuPointerGetAttribute");
  PostedBuffer posted{};
  if (buffer.bytes == 0 || buffer.data == nullptr) return posted;
  CUdeviceptr base = 0;
  size_t size = 0;
  const auto address = reinterpret_cast<CUdeviceptr>(buffer.data);
  unsigned long long allocation = 0;
  cudaIpcMemHandle_t handle{};
  const bool found =
      getAddressRange(&base, &size, address) == CUDA_SUCCESS &&
      pointerGetAttribute(&allocation, CU_POINTER_ATTRIBUTE_BUFFER_ID, address) == CUDA_SUCCESS &&
      cudaIpcGetMemHandle(&handle, reinterpret_cast<void *>(base)) == cudaSuccess;
  if (!found) {
    (void)cudaGetLastError();
    throw Failure(
        FUSCO_E_BUFFER,
        "memory at %p cannot be shared with the other ranks of this machine: it must come from cudaMalloc",
        buffer.data)
        .atRank(neighbors_.rank);
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

uint8_t *Group::openBuffer(uint32_t neighbor, const PostedBuffer &posted) {
  std::map<uint64_t, Mapping> &known = mappings_[neighbor];
  const auto found = known.find(posted.base);
  if (found != known.end() && found->second.allocation == posted.allocation) {
    return found->second.base + posted.offset;
  }
  // The neighbor has freed what was mapped there before: unmap it.
  for (auto at = known.begin(); at != known.end();) {
    const bool overlaps = at->first < posted.base + posted.size && posted.base < at->first + at->second.size;
    if (overlaps) must(cudaIpcCloseMemHandle(at->second.base), "closing a neighbor's memory");
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
        neighbors_.rankAt[neighbor], neighbors_.rank, cudaGetErrorString(error))
        .atRank(neighbors_.rankAt[neighbor]);
  }
  known[posted.base] = {posted.allocation, posted.size, static_cast<uint8_t *>(base)};
  return static_cast<uint8_t *>(base) + posted.offset;
}

bool Group::openAll(uint32_t neighbor, const Post &post, const std::vector<uint64_t> &needed,
                    Mapped &mapped) {
  for (size_t b = 0; b < needed.size(); b++) {
    if (needed[b] == 0) continue;
    mapped[b][neighbor] = openBuffer(neighbor, post.buffer[b]);
    if (mapped[b][neighbor] == nullptr) return false;
  }
  return true;
}

Mapped Group::shareBuffers(const fusco_nccl_call &call, const std::vector<SharedBuffer> &buffers,
                           const std::vector<uint32_t> &rows, uint64_t &waitNs) {
  const auto neighbors = neighbors_.count();
  Mapped mapped(buffers.size(), std::vector<uint8_t *>(neighbors, nullptr));
  for (size_t b = 0; b < buffers.size(); b++) {
    mapped[b][neighbors_.self] = static_cast<uint8_t *>(buffers[b].memory.data);
  }
  if (!hasNeighbors()) return mapped;
  if (buffers.size() > maxPosted) {
    throw Failure(FUSCO_E_LIMIT, "%llu buffers in one exchange; the limit is %u", buffers.size(), maxPosted)
        .limited(buffers.size(), maxPosted);
  }
  Post &local = mailbox_->local(call.number);
  local.digest = call.digest;
  local.count = static_cast<uint32_t>(buffers.size());
  for (size_t b = 0; b < buffers.size(); b++) local.buffer[b] = describe(buffers[b].memory);
  mailbox_->publish(call.number);
  const uint64_t start = monotonicNs();
  for (uint32_t i = 0; i < neighbors; i++) {
    if (i == neighbors_.self) continue;
    const uint32_t peer = neighbors_.rankAt[i];
    char what[96];
    std::snprintf(what, sizeof what, "waiting for rank %u, which was last in call %" PRIu64, peer,
                  mailbox_->lastCall(i));
    wait(what, [&] { return mailbox_->has(i, call.number); });
    const Post &post = mailbox_->of(i, call.number);
    if (post.digest != call.digest || post.count != buffers.size()) {
      throw Failure(FUSCO_E_PEER_MISMATCH,
                    "rank %u makes another call than rank %u as call %llu: the digests differ", peer,
                    neighbors_.rank, call.number)
          .atRank(peer);
    }
    std::vector<uint64_t> needed(buffers.size());
    for (size_t b = 0; b < buffers.size(); b++) {
      needed[b] = rows[i] * buffers[b].rowBytes;
      const uint64_t given = post.buffer[b].bytes;
      if (given >= needed[b]) continue;
      throw Failure(FUSCO_E_BUFFER, "buffer %llu of rank %u has %llu bytes, %llu are needed", b, peer, given,
                    needed[b])
          .atRank(peer)
          .limited(given, needed[b]);
    }
    // Allocations share blocks of memory, and one that the neighbor has freed may keep its block from being
    // mapped again.
    if (openAll(i, post, needed, mapped)) continue;
    closeMappings(i);
    if (openAll(i, post, needed, mapped)) continue;
    throw Failure(FUSCO_E_BACKEND, "the memory of rank %u is mapped by something else in rank %u", peer,
                  neighbors_.rank)
        .atRank(peer);
  }
  waitNs += monotonicNs() - start;
  return mapped;
}

uint64_t Group::lateness(const fusco_nccl_call &call, uint32_t neighbor) const {
  if (neighbor == neighbors_.self || mailbox_ == nullptr) return 0;
  const uint64_t ours = mailbox_->of(neighbors_.self, call.number).enteredNs;
  const uint64_t theirs = mailbox_->of(neighbor, call.number).enteredNs;
  return theirs > ours ? theirs - ours : 0;
}

void Group::edge(Edge edge) {
  if (!hasNeighbors()) return;
  if (edge == readyEdge) epoch_++;
  FlagParams params{};
  params.neighbors = neighbors_.count();
  params.self = neighbors_.self;
  params.epoch = epoch_;
  params.local = flags_ + edge * maxNeighbors;
  params.abort = abortFlagDevice_;
  for (uint32_t i = 0; i < params.neighbors; i++) {
    params.theirs[i] = peerFlags_[i] + edge * maxNeighbors + neighbors_.self;
  }
  must(launchFlags(params, workStream()), "signalling neighbors");
}

}  // namespace fusco::nccl
