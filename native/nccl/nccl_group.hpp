// One rank of a group: its communicator, its streams, its neighbors' memory, and every wait with a deadline.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda_context.hpp"
#include "failure.hpp"
#include "mailbox.hpp"
#include "nccl_library.hpp"
#include "rank_tables.hpp"
#include "wire_kernels.hpp"

namespace fusco::nccl {

// Device memory that only grows, and is reused by one exchange after the other.
class Arena {
 public:
  explicit Arena(cuda::CudaContext &context) : context_(context) {}
  ~Arena();
  Arena(const Arena &) = delete;
  Arena &operator=(const Arena &) = delete;

  // Nothing that uses the memory may be in flight.
  uint8_t *atLeast(uint64_t bytes);

 private:
  cuda::CudaContext &context_;
  uint8_t *memory_ = nullptr;
  uint64_t bytes_ = 0;
};

// What the arenas of a group are for.
enum class Use : uint32_t { sendRing, receiveRing, landing, weights, gathered, count };

class Group {
 public:
  explicit Group(const fusco_nccl_group_desc &desc);
  ~Group();
  Group(const Group &) = delete;
  Group &operator=(const Group &) = delete;

  const Neighbors &near() const { return near_; }
  cuda::CudaContext &context() { return *context_; }
  const std::shared_ptr<cuda::CudaContext> &contextHandle() const { return context_; }
  uint64_t roundBytes() const { return roundBytes_; }
  uint32_t device() const { return context_->deviceOf(0); }
  Arena &arena(Use use) { return *arenas_[static_cast<uint32_t>(use)]; }
  // Streams of their own: packing, the wire, what follows the wire, and rows that go directly.
  cudaStream_t packing() const { return streams_[0]; }
  cudaStream_t wire() const { return streams_[1]; }
  cudaStream_t work() const { return streams_[2]; }
  cudaStream_t direct() const { return streams_[3]; }
  const cuda::DeviceLimits &limits() const { return context_->groups().front().limits; }

  // Starts the deadline of a call. Throws what broke the group before.
  void enter(const fusco_nccl_step &step);
  void leave() { entered_ = false; }
  bool hasEntered() const { return entered_; }
  // After any failure in the middle of a call: nobody may wait for this rank any longer.
  void fail(const Failure &failure) noexcept;
  void abort(const char *why) noexcept;

  // Returns when `ready()`; throws E_PEER_TIMEOUT at the deadline or after abort(). `what` is said then.
  void wait(const char *what, const std::function<bool()> &ready);
  void waitFor(cudaEvent_t event, const char *what);
  // Throws what a call of CUDA reported.
  void must(cudaError_t error, const char *what);
  void record(const cuda::Event &event, cudaStream_t stream);
  void order(cudaStream_t stream, const cuda::Event &after);

  // One NCCL group: `issue` calls send and receive.
  void together(const std::function<void()> &issue);
  void send(const void *from, uint64_t bytes, uint32_t peer);
  void receive(void *to, uint64_t bytes, uint32_t peer);
  void allGather(const void *own, void *all, uint64_t bytes);
  // Whole messages between all pairs, device memory, in the order of offsets: bytes by peer, one after the
  // other.
  void swap(const uint8_t *from, const std::vector<uint64_t> &sendBytes, uint8_t *to,
            const std::vector<uint64_t> &receiveBytes);

  // Posts these buffers, waits for all neighbors' posts, compares digests. `mapped` [buffers][neighbors]
  // are then the neighbors' buffers in this process; the own one is itself. `needed` [neighbors] are rows
  // that must fit with rowBytes [buffers].
  void meet(const fusco_nccl_step &step, const std::vector<fusco_buffer> &buffers,
            const std::vector<uint64_t> &rowBytes, const std::vector<uint32_t> &rows,
            std::vector<std::vector<uint8_t *>> &mapped, uint64_t *waitNs);
  // How much later than this rank each neighbor entered the step; after meet.
  uint64_t lateness(const fusco_nccl_step &step, uint32_t neighbor) const;
  bool hasNeighbors() const { return near_.local.size() > 1; }
  // An edge: all neighbors' work in front of it is done and visible. Enqueues on work().
  enum Edge : uint32_t { readyEdge = 0, doneEdge = 1 };
  void edge(Edge edge);

 private:
  void openStreams();
  void openFlags();
  void checkResult(abi::Result result, const char *what);
  void settle(const char *what);
  PostedBuffer describe(const fusco_buffer &buffer);
  // The posted buffer in this process, or null where it cannot be mapped beside what is mapped already.
  uint8_t *open(uint32_t neighbor, const PostedBuffer &posted);
  // Opens the first `needed.size()` buffers of a post that are needed; false where one is in the way.
  bool openAll(uint32_t neighbor, const Post &post, const std::vector<uint64_t> &needed,
               std::vector<std::vector<uint8_t *>> &mapped);
  void closeMappings(uint32_t neighbor) noexcept;
  void closePeers() noexcept;
  void closeComm() noexcept;

  const Library &library_;
  std::shared_ptr<cuda::CudaContext> context_;
  Neighbors near_;
  uint64_t deadlineNs_;
  uint64_t roundBytes_;
  uint64_t until_ = 0;
  uint64_t step_ = 0;
  uint64_t epoch_ = 0;
  abi::Comm *comm_ = nullptr;
  bool entered_ = false;
  bool broken_ = false;
  std::string brokenBy_;
  std::atomic<bool> aborted_{false};
  std::string abortedWhy_;
  std::mutex abortMutex_;
  std::unique_ptr<Mailbox> mailbox_;
  cudaStream_t streams_[4] = {};
  std::vector<std::unique_ptr<Arena>> arenas_;
  // Flags that neighbors write into this rank's memory: [edge][neighbors], and where theirs are.
  uint64_t *flags_ = nullptr;
  std::vector<uint64_t *> peerFlags_;
  uint32_t *abortFlag_ = nullptr;        // pinned, of the host
  uint32_t *abortFlagDevice_ = nullptr;  // the same for kernels
  // Neighbors' allocations that are open here, by their address there.
  struct Mapping {
    uint64_t allocation;
    uint64_t size;
    uint8_t *base;
  };
  std::vector<std::map<uint64_t, Mapping>> mappings_;  // [neighbors]
};

}  // namespace fusco::nccl

struct fusco_nccl_group {
  std::shared_ptr<fusco::nccl::Group> shared;
};
