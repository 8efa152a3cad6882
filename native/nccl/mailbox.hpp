// Shared memory of the ranks of one machine: before an exchange each posts what it is about to do and where
// its buffers are, and reads what the others posted. No CUDA, no NCCL.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace fusco::nccl {

constexpr uint32_t maxPosted = 64;
constexpr uint32_t handleBytes = 64;

// The clock that all processes of a machine share: CLOCK_MONOTONIC, in nanoseconds.
uint64_t monotonicNs();

// One device buffer that neighbors may open. `bytes` 0: none.
struct PostedBuffer {
  uint8_t handle[handleBytes];
  uint64_t allocation;  // unique in its process: another one at the same address has another number
  uint64_t base;        // where the allocation begins in its process
  uint64_t size;        // and its bytes
  uint64_t offset;      // of the buffer in its allocation
  uint64_t bytes;       // of the buffer
};

struct Post {
  std::atomic<uint64_t> call;  // its number; 0: none yet; released after the rest is written
  uint64_t digest;
  uint64_t enteredNs;  // monotonicNs
  uint32_t count;
  PostedBuffer buffer[maxPosted];
};

class Mailbox {
 public:
  // Calls `wait(ready)` until `ready()`; it may throw, and is given to every call that waits.
  using Wait = std::function<void(const std::function<bool()> &ready)>;

  // Neighbor 0 creates the memory, the others open it; after the last one its name is removed. Throws
  // E_BACKEND.
  Mailbox(const std::string &name, uint32_t neighbors, uint32_t self, const Wait &wait);
  Mailbox(const Mailbox &) = delete;
  Mailbox &operator=(const Mailbox &) = delete;

  // This rank's post of a call: fill it, then publish. Two calls have two places: a rank can be one call
  // ahead of a neighbor that still reads the previous post, and no further.
  Post &local(uint64_t call) { return at(self_, call); }
  void publish(uint64_t call);
  bool has(uint32_t neighbor, uint64_t call) const;
  const Post &of(uint32_t neighbor, uint64_t call) const {
    return const_cast<Mailbox *>(this)->at(neighbor, call);
  }
  // The number of the last call that a neighbor entered.
  uint64_t lastCall(uint32_t neighbor) const;

  // Tells the neighbors that this rank failed, so that they do not wait for their deadlines.
  void fail();
  bool hasFailed(uint32_t neighbor) const;

 private:
  struct Head;
  Post &at(uint32_t neighbor, uint64_t call);

  std::string name_;
  uint32_t neighbors_;
  uint32_t self_;
  uint64_t bytes_;
  std::unique_ptr<Head, std::function<void(Head *)>> head_;  // unmaps it
};

}  // namespace fusco::nccl
