// A thread that runs tasks one after the other, in the order in which they were given, and settles their
// promises on the JavaScript thread. It does not use libuv's pool, because a task may wait for other
// processes.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "values.hpp"

namespace fusco_node {

// A call of the C interface: made, settled and destroyed on the JavaScript thread; run on the worker's.
class Task {
 public:
  // Touches no JavaScript.
  using Work = std::function<fusco_status(fusco_error *)>;
  // Makes the value of the promise.
  using Result = std::function<Napi::Value(Napi::Env)>;

  // `keep` stays referenced until the task is settled.
  Task(Napi::Env env, Work work, Result result, const Napi::Array &keep);
  Task(const Task &) = delete;
  Task &operator=(const Task &) = delete;

  void run() { status_ = work_(&error_); }
  // Resolves or rejects the promise.
  void settle(Napi::Env env);
  Napi::Promise promise() const { return deferred_.Promise(); }

 private:
  Napi::Promise::Deferred deferred_;
  Work work_;
  Result result_;
  Napi::Reference<Napi::Array> keep_;
  fusco_status status_ = FUSCO_OK;
  fusco_error error_{};
};

// All members belong to the JavaScript thread of the environment that made the worker, except what
// `mutex_` guards.
class Worker : public std::enable_shared_from_this<Worker> {
 public:
  // `name` is what diagnostics of the environment show.
  Worker(napi_env env, const char *name) : env_(env), name_(name) {}
  ~Worker() { stop(); }
  Worker(const Worker &) = delete;
  Worker &operator=(const Worker &) = delete;

  // Queues a task; without `result` its promise resolves to undefined. The first task starts the thread.
  // Throws E_MEMORY if no thread can be started.
  Napi::Promise submit(Task::Work work, Task::Result result, const Napi::Array &keep);
  bool isIdle() const { return inFlight_ == 0; }
  // Called whenever the last task in flight has settled.
  void whenIdle(std::function<void()> call) { idle_ = std::move(call); }
  // Called before stop() waits for the task in progress, to cut a long wait of it short.
  void whenStopping(std::function<void()> call) { interrupt_ = std::move(call); }
  // Ends the thread after the task in progress; idempotent. What is queued is not run.
  void stop();

 private:
  void start();
  void serve();
  void settle(Napi::Env env);
  static void onDone(napi_env env, napi_value callback, void *context, void *data);
  static void onEnvironmentEnd(void *worker);

  napi_env env_;
  const char *name_;
  size_t inFlight_ = 0;
  std::function<void()> idle_;
  std::function<void()> interrupt_;
  napi_threadsafe_function wake_ = nullptr;
  std::thread thread_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Task>> queue_;
  std::vector<std::unique_ptr<Task>> done_;
  bool stopping_ = false;
};

}  // namespace fusco_node
