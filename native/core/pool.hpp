// The threads of a context: started once, woken for each exchange.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace fusco {

// Runs numbered tasks on a fixed set of threads; the calling thread works along. Not re-entrant.
class Pool {
 public:
  using Task = void (*)(void *context, uint32_t task);

  explicit Pool(uint32_t threads);
  ~Pool() { stop(); }
  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  uint32_t threads() const { return static_cast<uint32_t>(workers_.size()) + 1; }

  // Calls task(context, i) once for each i < tasks and returns when all are done. What tasks wrote is visible
  // to the caller. Tasks start in ascending order, must not throw, and run with the default floating-point
  // state.
  void run(uint32_t tasks, Task task, void *context);

  // The same with a callable that outlives the call; nothing is allocated.
  template <class F>
  void each(uint32_t tasks, F &work) {
    run(
        tasks, [](void *context, uint32_t task) { (*static_cast<F *>(context))(task); }, &work);
  }

 private:
  void serve();
  void drain();
  void stop();

  std::vector<std::thread> workers_;
  Task task_ = nullptr;
  void *context_ = nullptr;
  uint32_t tasks_ = 0;
  std::atomic<uint32_t> next_{0};
  std::atomic<uint32_t> busy_{0};
  std::atomic<uint32_t> round_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace fusco
