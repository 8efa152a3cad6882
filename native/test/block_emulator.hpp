// Runs device code of one CUDA block on a processor: every thread of the block is a fiber, and the fibers
// take turns at the calls for which threads wait for one another. Between these calls fibers run in a random
// order, so that code which lacks a wait fails sooner or later. Blocks that run at the same time are
// operating system threads: memory with `__shared__` belongs to a thread.
//
// Include this before device code. Only what planning and signals need is here. A launch has one block.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define __device__
#define __forceinline__ inline
#define __shared__ thread_local

namespace emulated {

constexpr uint32_t warpLanes = 32;

struct Index {
  uint32_t x = 0, y = 0;
};

// The block that the operating system thread runs.
class Block {
 public:
  // Calls `body` once for each of `threads` threads, a multiple of 32.
  Block(uint32_t threads, uint32_t seed, std::function<void()> body)
      : random_(seed), body_(std::move(body)), fibers_(threads), warps_(threads / warpLanes) {
    for (uint32_t i = 0; i < threads; i++) makeReady(fibers_[i].context, stackOf(i));
  }

  void run() {
    current() = this;
    std::vector<uint32_t> ready;  // warps with threads that can run
    for (uint32_t warp = 0; warp < warps_.size(); warp++) ready.push_back(warp);
    while (!ready.empty()) {
      const uint32_t at = below(static_cast<uint32_t>(ready.size()));
      // Some warps get far ahead of others.
      bool canRun = true;
      for (uint32_t turns = 1 + below(8) * below(8); turns > 0 && canRun; turns--)
        canRun = runWarp(ready[at]);
      if (canRun) continue;
      ready.erase(ready.begin() + at);
      if (ready.empty()) ready = releaseBlock();
    }
    for (const Fiber &fiber : fibers_) {
      if (fiber.state == State::ended) continue;
      std::fprintf(stderr, "threads of a block wait for different things\n");
      std::exit(1);
    }
    current() = nullptr;
  }

  uint32_t thread() const { return thread_; }
  uint32_t threads() const { return static_cast<uint32_t>(fibers_.size()); }

  void waitForWarp() { wait(State::atWarp); }
  void waitForBlock() { wait(State::atBlock); }

  // Gives the value of this thread to its warp, and returns those of all lanes.
  const uint64_t *exchange(uint64_t value) {
    const uint32_t lane = thread_ % warpLanes;
    Fiber &fiber = fibers_[thread_];
    // Two sets in turn: no lane writes a set again before all have read it.
    uint64_t *values = warps_[thread_ / warpLanes].values[fiber.exchanges++ % 2];
    values[lane] = value;
    waitForWarp();
    return values;
  }

  static Block *&current() {
    static thread_local Block *block = nullptr;
    return block;
  }

 private:
  enum class State { ready, atWarp, atBlock, ended };
  static constexpr size_t stackBytes = 64 * 1024;

  // Its first turn begins with the context; later ones, by jumps, which make no system calls.
  struct Fiber {
    ucontext_t context;
    jmp_buf jump;
    State state = State::ready;
    bool hasBegun = false;
    uint32_t exchanges = 0;
  };
  struct Warp {
    uint64_t values[2][warpLanes];
  };

  // Blocks that follow one another use the same stacks.
  static uint8_t *stackOf(uint32_t fiber) {
    static thread_local std::vector<std::unique_ptr<uint8_t[]>> stacks;
    while (stacks.size() <= fiber) stacks.push_back(std::make_unique_for_overwrite<uint8_t[]>(stackBytes));
    return stacks[fiber].get();
  }

  void makeReady(ucontext_t &context, uint8_t *stack) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = stackBytes;
    context.uc_link = nullptr;
    makecontext(&context, &Block::start, 0);
  }

  static void start() {
    Block &block = *current();
    block.body_();
    block.fibers_[block.thread_].state = State::ended;
    _longjmp(block.scheduler_, 1);
  }

  // Runs a thread until it waits or ends.
  [[gnu::noinline]] void resume(Fiber &fiber) {
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.hasBegun) _longjmp(fiber.jump, 1);
    fiber.hasBegun = true;
    setcontext(&fiber.context);
  }

  [[gnu::noinline]] void wait(State state) {
    Fiber &fiber = fibers_[thread_];
    fiber.state = state;
    if (_setjmp(fiber.jump) == 0) _longjmp(scheduler_, 1);
  }

  uint32_t below(uint32_t end) { return static_cast<uint32_t>(random_() % end); }

  // Runs each thread of a warp that can run until it waits. Returns whether any can run then.
  bool runWarp(uint32_t warp) {
    uint32_t order[warpLanes];
    std::iota(order, order + warpLanes, warp * warpLanes);
    std::shuffle(order, order + warpLanes, random_);
    for (const uint32_t i : order) {
      if (fibers_[i].state != State::ready) continue;
      thread_ = i;
      resume(fibers_[i]);
    }
    return release(State::atWarp, warp * warpLanes, (warp + 1) * warpLanes);
  }

  // Returns the warps that can run once all threads wait for the block.
  std::vector<uint32_t> releaseBlock() {
    std::vector<uint32_t> ready;
    if (!release(State::atBlock, 0, threads())) return ready;
    for (uint32_t i = 0; i < threads(); i++) {
      const uint32_t warp = i / warpLanes;
      if (fibers_[i].state == State::ready && (ready.empty() || ready.back() != warp)) ready.push_back(warp);
    }
    return ready;
  }

  // Lets threads that wait in this way go on, if all others among these have ended. Returns whether any do.
  bool release(State state, uint32_t first, uint32_t end) {
    for (uint32_t i = first; i < end; i++) {
      if (fibers_[i].state != state && fibers_[i].state != State::ended) return false;
    }
    bool isAny = false;
    for (uint32_t i = first; i < end; i++) {
      if (fibers_[i].state != state) continue;
      fibers_[i].state = State::ready;
      isAny = true;
    }
    return isAny;
  }

  std::mt19937 random_;
  std::function<void()> body_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  jmp_buf scheduler_;
  uint32_t thread_ = 0;
};

inline Block &block() { return *Block::current(); }
inline Index threadIndex() { return {block().thread(), 0}; }
inline Index blockSize() { return {block().threads(), 1}; }

}  // namespace emulated

#define threadIdx emulated::threadIndex()
#define blockDim emulated::blockSize()
#define gridDim (emulated::Index{1, 1})

inline void __syncthreads() { emulated::block().waitForBlock(); }
inline void __syncwarp() { emulated::block().waitForWarp(); }
inline void __threadfence() {}
inline void __threadfence_system() {}

inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }

template <class T>
T __shfl_sync(uint32_t, T value, uint32_t lane) {
  return static_cast<T>(emulated::block().exchange(value)[lane % emulated::warpLanes]);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, uint32_t lanes) {
  return __shfl_sync(mask, value, (emulated::block().thread() ^ lanes) % emulated::warpLanes);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, uint32_t lanes) {
  const uint32_t lane = emulated::block().thread() % emulated::warpLanes;
  return __shfl_sync(mask, value, lane < lanes ? lane : lane - lanes);
}
inline uint32_t __match_any_sync(uint32_t, uint32_t value) {
  const uint64_t *values = emulated::block().exchange(value);
  uint32_t same = 0;
  for (uint32_t lane = 0; lane < emulated::warpLanes; lane++)
    same |= (values[lane] == value ? 1u : 0u) << lane;
  return same;
}

inline uint32_t __ballot_sync(uint32_t, bool value) {
  const uint64_t *values = emulated::block().exchange(value ? 1 : 0);
  uint32_t set = 0;
  for (uint32_t lane = 0; lane < emulated::warpLanes; lane++)
    set |= static_cast<uint32_t>(values[lane]) << lane;
  return set;
}
inline int __all_sync(uint32_t mask, bool value) { return __ballot_sync(mask, value) == ~0u ? 1 : 0; }

// Fibers of a block take turns; blocks do not.
template <class T>
T atomicAdd(T *at, T value) {
  return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);
}
template <class T>
T atomicExch(T *at, T value) {
  return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);
}
template <class T>
T atomicMin(T *at, T value) {
  const T before = *at;
  if (value < before) *at = value;
  return before;
}
template <class T>
T atomicMax(T *at, T value) {
  const T before = *at;
  if (value > before) *at = value;
  return before;
}
