// The local rank of a group: its communicator, its streams, its neighbors' memory, and every wait with a
// deadline.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_context.hpp"
#include "failure.hpp"
#include "host_swap.hpp"
#include "mailbox.hpp"
#include "nccl_library.hpp"
#include "peer_memory.hpp"
#include "rank_tables.hpp"
#include "registry.hpp"
#include "wire_kernels.hpp"

namespace fusco::nccl {

// Memory that only grows, and is used by one exchange after the other: on the device, or pinned on the host.
class Arena {
 public:
  explicit Arena(cuda::CudaContext &context, bool isPinned = false)
      : context_(context), isPinned_(isPinned) {}
  ~Arena();
  Arena(const Arena &) = delete;
  Arena &operator=(const Arena &) = delete;

  // At least `bytes` bytes, valid until a larger size is asked for; where they have to be allocated, `spare`
  // more. Nothing that uses the memory may be in flight.
  uint8_t *atLeast(uint64_t bytes, uint64_t spare = 0);

 private:
  cudaError_t free();

  cuda::CudaContext &context_;
  const bool isPinned_;
  uint8_t *memory_ = nullptr;
  uint64_t bytes_ = 0;
};

// What the arenas of a group are for. While a plan is made: what ranks tell one another, and tables until
// they are uploaded. New memory of the host would cost more than filling it.
enum class Use : uint32_t {
  sendRing,
  receiveRing,
  landing,
  weights,
  flags,
  told,  // the first one that is pinned
  heard,
  onePassTables,
  tables,
  count
};

// Device memory from cudaMalloc, or none, that neighbors write or read. Rows have the same size on all ranks.
struct SharedBuffer {
  fusco_buffer memory;
  uint64_t rowBytes;
};
// [buffers][neighbors]: addresses in this process.
using Mapped = std::vector<std::vector<uint8_t *>>;

// All members but abort() are called by one thread at a time, with the group's device current. They throw
// E_BACKEND for what CUDA or NCCL reports, and E_PEER_TIMEOUT after the deadline of the call or abort().
class Group {
 public:
  explicit Group(const fusco_nccl_group_desc &desc);
  ~Group();
  Group(const Group &) = delete;
  Group &operator=(const Group &) = delete;

  const Neighbors &neighbors() const { return neighbors_; }
  bool hasNeighbors() const { return neighbors_.count() > 1; }
  cuda::CudaContext &context() { return *context_; }
  const std::shared_ptr<cuda::CudaContext> &contextHandle() const { return context_; }
  uint64_t roundBytes() const { return roundBytes_; }
  uint32_t device() const { return context_->deviceOf(0); }
  const cuda::DeviceLimits &limits() const { return context_->groups().front().limits; }
  Arena &arena(Use use) { return *arenas_[static_cast<uint32_t>(use)]; }
  // Device memory for the tables of a plan: that of a plan that is gone, if there is one, because allocating
  // and freeing would wait for the device. From any thread.
  std::unique_ptr<Arena> takeTables();
  // Nothing that uses the memory may be in flight.
  void keepTables(std::unique_ptr<Arena> tables);
  // The group's CUDA streams: packing; NCCL; what follows NCCL; and rows that go directly to neighbors.
  cudaStream_t packStream() const { return streams_[0]; }
  cudaStream_t wireStream() const { return streams_[1]; }
  cudaStream_t workStream() const { return streams_[2]; }
  cudaStream_t directStream() const { return streams_[3]; }

  // Starts the deadline of a call. Throws what broke the group before.
  void enter(const fusco_nccl_call &call);
  void leave() { entered_ = false; }
  bool hasEntered() const { return entered_; }
  // After any failure in the middle of a call: no rank may wait for this one any longer.
  void fail(const Failure &failure) noexcept;
  // From any thread: the call in progress and all later ones fail. `why` is copied.
  void abort(const char *why) noexcept;
  // Throws what kernels have reported since the last check: E_PEER_TIMEOUT, E_PEER_MISMATCH.
  void check() const;

  // Blocks the thread until `ready()`. `what` says in errors what was waited for.
  void wait(const char *what, const std::function<bool()> &ready);
  void waitFor(cudaEvent_t event, const char *what);
  // Waits, without a deadline, for all four streams, the last call, and the caller's stream, unless that is
  // captured.
  void synchronize() noexcept;
  // Throws the error of a CUDA call.
  void must(cudaError_t error, const char *what);
  void record(const cuda::Event &event, cudaStream_t stream);
  // What is enqueued on `stream` from now on waits for the event's last record.
  void order(cudaStream_t stream, const cuda::Event &after);

  // One NCCL group on wireStream(): `issue` calls send and receive. Returns when NCCL has launched it.
  // Collective with the ranks at the other ends.
  void round(const std::function<void()> &issue);
  // Device memory, which must stay valid until the round is done.
  void send(const void *from, uint64_t bytes, uint32_t peer);
  void receive(void *to, uint64_t bytes, uint32_t peer);
  // The same for a gather, which is collective: all[r] = rank r's `bytes` bytes; device memory. `local` may
  // be the local rank's place in `all`.
  void gather(const void *local, void *all, uint64_t bytes);
  // Messages between all pairs, on wireStream(). `from` and `to` are device memory with the bytes of ranks
  // 0, 1, … one after the other; `sendBytes` and `receiveBytes` [ranks] fit those of the peers.
  void swap(const uint8_t *from, const std::vector<uint64_t> &sendBytes, uint8_t *to,
            const std::vector<uint64_t> &receiveBytes);
  // The next two are collective, take host memory and return when it is filled: through shared memory if the
  // group has one machine, otherwise through the devices and NCCL. `what` is for errors.
  // all[r] = rank r's `bytes` bytes.
  void gatherOnHost(const void *local, void *all, uint64_t bytes, const char *what);
  // As swap().
  void swapOnHost(const void *sent, const std::vector<uint64_t> &sendBytes, void *received,
                  const std::vector<uint64_t> &receiveBytes, const char *what);

  // Posts the local rank's buffers, waits on the host for the posts of all neighbors, and compares the calls'
  // digests. Neighbor n's buffer must have at least rows[n] rows, where `rows` is [neighbors]. Returns
  // [buffers][neighbors]: device addresses in this process, its own address for the local rank, null where no
  // rows are needed. They are valid until the next call. Adds the time it waited to `waitNs`. Throws
  // E_BUFFER, E_LIMIT, E_PEER_MISMATCH.
  Mapped shareBuffers(const fusco_nccl_call &call, const std::vector<SharedBuffer> &buffers,
                      const std::vector<uint32_t> &rows, uint64_t &waitNs);
  // Nanoseconds by which a neighbor entered the last call of shareBuffers later than this rank.
  uint64_t lateness(uint32_t neighbor) const;
  // The memory that the ranks of this machine share, and what kernels need to exchange through it. With
  // neighbors only.
  Registry &registry() { return *registry_; }
  PeerMemory &peers() { return *peers_; }
  cuda::WaitFailure &waitFailure() { return hostSignals_->failure; }
  uint64_t deadlineNs() const { return deadlineNs_; }
  // Around what is enqueued on the caller's stream: calls on different streams stay in order.
  bool isCapturing(cudaStream_t stream);
  // Before the host waits. Throws `status` with `text` in a capture, after which the group goes on: nothing
  // of a captured call has run, so that no rank waits for this one.
  void refuseCapture(fusco_status status, const char *text);
  // The same before ranks share memory: E_MEMORY.
  void refuseSharingInCapture() {
    refuseCapture(FUSCO_E_MEMORY, "memory of an exchange cannot be shared in a capture: run it once before");
  }
  void followStream(cudaStream_t stream);
  void leaveStream(cudaStream_t stream);
  // For members of Mailbox and Registry.
  Mailbox::Wait waiting(const char *what) {
    return [this, what](const std::function<bool()> &ready) { wait(what, ready); };
  }
  // Enqueued on workStream(): what follows on that stream sees all work of all neighbors in front of the same
  // edge.
  enum Edge : uint32_t { readyEdge = 0, doneEdge = 1 };
  void edge(Edge edge);

 private:
  // Without anything that can fail half way: the destructor cleans up after open().
  struct Closed {};
  Group(const fusco_nccl_group_desc &desc, Closed);
  void open(const fusco_nccl_group_desc &desc);
  void openStreams();
  void openFlags();
  void checkResult(abi::Result result, const char *what);
  // The state of the communicator. Throws an error of it.
  abi::Result stateOfComm(const char *what);
  void settle(const char *what);
  // Copies `sentBytes` bytes of host memory to the device, calls `issue(from, to)`, which enqueues on
  // wireStream(), and copies `receivedBytes` bytes from `to` back to host memory.
  void throughDevice(const void *sent, uint64_t sentBytes, void *received, uint64_t receivedBytes,
                     const char *what, const std::function<void(const uint8_t *from, uint8_t *to)> &issue);
  void closeComm() noexcept;
  // Ends the waits of kernels.
  void endWaits() noexcept;
  // The error of a wait, named `what`, that a neighbor ended by failing. It names the rank that the
  // neighbor's error names, unless that is this one.
  Failure givenUp(const std::string &what, uint32_t neighbor) const;

  const Library &library_;
  std::shared_ptr<cuda::CudaContext> context_;
  Neighbors neighbors_;
  uint64_t deadlineNs_;
  uint64_t roundBytes_;
  uint64_t until_ = 0;
  fusco_nccl_call call_{};  // the last one entered
  uint64_t epoch_ = 0;
  abi::Comm *comm_ = nullptr;
  bool entered_ = false;
  bool broken_ = false;
  fusco_error brokenBy_{};
  std::atomic<bool> aborted_{false};
  char abortedWhy_[sizeof fusco_error::message] = {};
  std::mutex abortMutex_;
  std::unique_ptr<Mailbox> mailbox_;
  std::unique_ptr<HostSwap> hostSwap_;  // of a group with one machine and several ranks
  std::unique_ptr<Registry> registry_;
  std::unique_ptr<PeerMemory> peers_;
  uint64_t posts_ = 0;
  cudaStream_t lastStream_ = nullptr;
  bool isStreamUsed_ = false;
  cuda::Event lastCall_;
  cuda::Event drained_;  // recorded by synchronize()
  cudaStream_t streams_[4] = {};
  std::vector<std::unique_ptr<Arena>> arenas_;
  std::vector<std::unique_ptr<Arena>> freeTables_;
  std::mutex freeTablesMutex_;
  // Flags that neighbors write into this rank's memory: [edge][neighbors], and where theirs are.
  static constexpr uint64_t flagsBytes = 2 * maxNeighbors * sizeof(uint64_t);
  uint64_t *flags_ = nullptr;
  std::vector<uint64_t *> peerFlags_;
  // Pinned host memory that kernels write and read.
  struct HostSignals {
    cuda::WaitFailure failure;
    uint32_t abort;  // not zero ends the waits of launchFlags()
  };
  HostSignals *hostSignals_ = nullptr;
  std::atomic<bool> haveWaitsEnded_{false};
};

}  // namespace fusco::nccl

struct fusco_nccl_group {
  std::shared_ptr<fusco::nccl::Group> shared;
};
