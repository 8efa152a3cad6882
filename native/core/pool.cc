#include "pool.hpp"

#include <cfenv>

namespace fusco {

namespace {

// Turns of looking before a thread sleeps. An exchange's stages follow each other within microseconds, and
// waking a sleeping thread costs tens of them; longer spinning would steal time from the caller's own
// threads.
constexpr int spinTurns = 2000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void awaitChange(const std::atomic<uint32_t> &word, uint32_t old) {
  for (int turn = 0; turn < spinTurns; turn++) {
    if (word.load(std::memory_order_acquire) != old) return;
    relax();
  }
  word.wait(old, std::memory_order_acquire);
}

}  // namespace

Pool::Pool(uint32_t threads) {
  workers_.reserve(threads - 1);
  try {
    for (uint32_t i = 1; i < threads; i++) workers_.emplace_back([this] { serve(); });
  } catch (...) {
    // The destructor of a half-made object does not run, and a joinable thread must not be destroyed.
    stop();
    throw;
  }
}

void Pool::stop() {
  stopping_ = true;
  round_.fetch_add(1);
  round_.notify_all();
  for (std::thread &worker : workers_) worker.join();
}

void Pool::drain() {
  for (;;) {
    const uint32_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= tasks_) return;
    task_(context_, task);
  }
}

void Pool::serve() {
  // A process may have switched subnormals off for the thread that made this one; results must not depend on
  // it.
  std::fesetenv(FE_DFL_ENV);
  for (uint32_t seen = 0;;) {
    awaitChange(round_, seen);
    seen++;
    if (stopping_) return;
    drain();
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

void Pool::run(uint32_t tasks, Task task, void *context) {
  std::fenv_t environment;
  std::fegetenv(&environment);
  std::fesetenv(FE_DFL_ENV);
  task_ = task;
  context_ = context;
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  const uint32_t helpers = tasks > 1 ? static_cast<uint32_t>(workers_.size()) : 0;
  if (helpers > 0) {
    busy_.store(helpers, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }
  drain();
  for (uint32_t left = helpers > 0 ? busy_.load(std::memory_order_acquire) : 0; left > 0;
       left = busy_.load(std::memory_order_acquire)) {
    awaitChange(busy_, left);
  }
  std::fesetenv(&environment);
}

}  // namespace fusco
