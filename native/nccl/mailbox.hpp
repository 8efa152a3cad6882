// Shared memory of the ranks of one machine, in which they tell one another where their buffers are. No CUDA,
// no NCCL.
//
// Posts are for collective calls: each rank posts what it is about to do and where its buffers are, and reads
// what the others posted. Pieces are for collective calls that swap bytes (host_swap.hpp). Segments are for
// single ranks: a rank adds an allocation to its list at any time, and every other rank answers with the
// address at which it has mapped it.
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

// Device memory of a rank: part of one of its segments. `bytes` 0: none.
struct PostedBuffer {
  uint32_t segment;
  uint64_t offset;
  uint64_t bytes;
};

struct Post {
  std::atomic<uint64_t> number;  // of the post; 0: none yet; released after the rest is written
  uint64_t call;                 // for which it is
  uint64_t digest;
  uint64_t enteredNs;  // monotonicNs
  uint32_t count;
  PostedBuffer buffer[maxPosted];
};

// Ranks of one machine at most.
constexpr uint32_t maxMailboxRanks = 64;
// Bytes of a swap that are given at a time.
constexpr uint64_t pieceBytes = 256 << 10;

// Bytes [begin, end) of what a rank gives.
struct Part {
  uint64_t begin, end;
};

// What a rank gives to its neighbors in a swap, or part of it. As with posts, two numbers have two places.
struct Piece {
  std::atomic<uint64_t> number;  // of the piece; 0: none yet; released after the rest is written
  uint64_t call;                 // for which it is
  uint64_t digest;
  uint64_t sentBytes;          // in all pieces of the swap
  Part part[maxMailboxRanks];  // [neighbors]: what each gets
  uint8_t bytes[pieceBytes];
};

// Allocations that a rank shares at most.
constexpr uint32_t maxSegments = 512;

// An allocation of one rank, which other ranks map.
struct Segment {
  std::atomic<uint32_t> generation;  // counts the allocations that had this place; released after the rest
  uint32_t isShared;                 // 0: the allocation is no longer to be mapped
  uint8_t handle[handleBytes];
  // [neighbors]: generation << 1 of the last answer, plus 1 if it could not be mapped.
  std::atomic<uint64_t> answer[maxMailboxRanks];
  uint64_t mapped[maxMailboxRanks];  // [neighbors]: its address there; valid after the answer
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

  // This rank's post of a number, which ascends by one: fill it, then publish. Two numbers have two places: a
  // rank can be one post ahead of a neighbor that still reads the previous one, and no further.
  Post &local(uint64_t number) { return at(self_, number); }
  void publish(uint64_t number);
  bool has(uint32_t neighbor, uint64_t number) const;
  const Post &of(uint32_t neighbor, uint64_t number) const {
    return const_cast<Mailbox *>(this)->at(neighbor, number);
  }
  // The last call for which a neighbor posted.
  uint64_t lastCall(uint32_t neighbor) const;

  // A rank writes its own pieces and reads those of the others.
  Piece &piece(uint32_t neighbor, uint64_t number);

  // Segment `index` of a rank. A rank changes its own ones and calls announce(); others answer with answer().
  Segment &segment(uint32_t neighbor, uint32_t index);
  void announce(uint32_t index, const uint8_t *handle);
  void answer(uint32_t neighbor, uint32_t index, uint32_t generation, uint64_t address);
  // Sleeps until a rank has announced something or failed since `seen`, which becomes the present state, or
  // for `timeoutNs`.
  void sleep(uint32_t &seen, uint64_t timeoutNs);
  // Wakes all ranks that sleep.
  void ring();

  // Says that this rank uses no memory of the others any more. Whether all have said so.
  void leave();
  bool haveAllLeft() const;

  // Tells the neighbors that this rank failed, so that they do not wait for their deadlines. `culprit` is the
  // rank that its error names, or -1.
  void fail(int32_t culprit);
  bool hasFailed(uint32_t neighbor) const;
  // The rank that the error of a neighbor names, which has failed; -1: none.
  int32_t culpritOf(uint32_t neighbor) const;
  // Whether the process of a neighbor has ended without leaving. False where that cannot be seen: in another
  // namespace of processes.
  bool isGone(uint32_t neighbor) const;

 private:
  struct Head;
  Post &at(uint32_t neighbor, uint64_t number);

  std::string name_;
  uint32_t neighbors_;
  uint32_t self_;
  uint64_t bytes_;
  std::unique_ptr<Head, std::function<void(Head *)>> head_;  // unmaps it
};

}  // namespace fusco::nccl
