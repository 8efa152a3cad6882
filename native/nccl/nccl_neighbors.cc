// The part of a group that concerns ranks of its machine: their memory, and the flags that order its use.

#include <cinttypes>

#include "nccl_group.hpp"

namespace fusco::nccl {

void Group::openFlags() {
  flags_ = reinterpret_cast<uint64_t *>(arena(Use::flags).atLeast(flagsBytes));
  must(cudaMemset(flags_, 0, flagsBytes), "clearing flags");
  must(cudaDeviceSynchronize(), "clearing flags");
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
  const uint64_t number = ++posts_;
  Post &local = mailbox_->local(number);
  local.call = call.number;
  local.digest = call.digest;
  local.count = static_cast<uint32_t>(buffers.size());
  const Mailbox::Wait mapping = waiting("waiting for the ranks of this machine to map memory");
  for (size_t b = 0; b < buffers.size(); b++) local.buffer[b] = registry_->share(buffers[b].memory, mapping);
  mailbox_->publish(number);
  const uint64_t start = monotonicNs();
  for (uint32_t i = 0; i < neighbors; i++) {
    if (i == neighbors_.self) continue;
    const uint32_t peer = neighbors_.rankAt[i];
    char what[96];
    std::snprintf(what, sizeof what, "waiting for rank %u, which was last in call %" PRIu64, peer,
                  mailbox_->lastCall(i));
    wait(what, [&] { return mailbox_->has(i, number); });
    const Post &post = mailbox_->of(i, number);
    if (post.digest != call.digest || post.count != buffers.size()) {
      throw Failure(FUSCO_E_PEER_MISMATCH,
                    "rank %u makes another call than rank %u as call %llu: the digests differ", peer,
                    neighbors_.rank, call.number)
          .atRank(peer);
    }
    for (size_t b = 0; b < buffers.size(); b++) {
      const uint64_t needed = rows[i] * buffers[b].rowBytes;
      const uint64_t given = post.buffer[b].bytes;
      if (given < needed) {
        throw Failure(FUSCO_E_BUFFER, "buffer %llu of rank %u has %llu bytes, %llu are needed", b, peer,
                      given, needed)
            .atRank(peer)
            .limited(given, needed);
      }
      if (needed > 0) mapped[b][i] = registry_->mapped(i, post.buffer[b]);
    }
  }
  waitNs += monotonicNs() - start;
  return mapped;
}

uint64_t Group::lateness(uint32_t neighbor) const {
  if (neighbor == neighbors_.self || mailbox_ == nullptr) return 0;
  const uint64_t ours = mailbox_->of(neighbors_.self, posts_).enteredNs;
  const uint64_t theirs = mailbox_->of(neighbor, posts_).enteredNs;
  return theirs > ours ? theirs - ours : 0;
}

bool Group::isCapturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  must(cudaStreamIsCapturing(stream, &status), "asking for a capture");
  return status != cudaStreamCaptureStatusNone;
}

void Group::refuseCapture(fusco_status status, const char *text) {
  if (!isCapturing(context_->stream(0))) return;
  leave();
  throw Failure(status, "%s", text);
}

void Group::followStream(cudaStream_t stream) {
  if (!isStreamUsed_ || stream == lastStream_) return;
  // Captured work cannot wait for work outside its graph.
  if (!isCapturing(stream)) order(stream, lastCall_);
}

void Group::leaveStream(cudaStream_t stream) {
  // The order of a graph's launches is the caller's.
  if (isCapturing(stream)) return;
  record(lastCall_, stream);
  lastStream_ = stream;
  isStreamUsed_ = true;
}

void Group::edge(Edge edge) {
  if (!hasNeighbors()) return;
  if (edge == readyEdge) epoch_++;
  FlagParams params{};
  params.neighbors = neighbors_.count();
  params.self = neighbors_.self;
  params.epoch = epoch_;
  params.local = flags_ + edge * maxNeighbors;
  params.abort = &hostSignals_->abort;
  for (uint32_t i = 0; i < params.neighbors; i++) {
    params.theirs[i] = peerFlags_[i] + edge * maxNeighbors + neighbors_.self;
  }
  must(launchFlags(params, workStream()), "signalling neighbors");
}

}  // namespace fusco::nccl
