// One context with the thread that runs its asynchronous exchanges, one after the other, in the order of the
// calls.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "calls.hpp"

namespace fusco_node {

class Engine;

// A native plan and the engine it belongs to; shared by its JavaScript object and by the jobs in flight.
class PlanState {
 public:
  // Throws what fusco_plan_create refuses.
  PlanState(Napi::Env env, std::shared_ptr<Engine> engine, const fusco_plan_desc &desc);
  ~PlanState() { release(); }
  PlanState(const PlanState &) = delete;
  PlanState &operator=(const PlanState &) = delete;

  fusco_plan *handle() const { return handle_; }
  Engine &engine() const { return *engine_; }
  // Frees the native plan; idempotent. No job may be using it.
  void release();

 private:
  std::shared_ptr<Engine> engine_;
  fusco_plan *handle_ = nullptr;
};

// An asynchronous exchange. Made, settled and destroyed on the JavaScript thread; run on the engine's.
struct Job {
  Job(Napi::Env env, std::shared_ptr<PlanState> target, std::unique_ptr<Call> parsed,
      const Napi::Array &buffers)
      : plan(std::move(target)), call(std::move(parsed)), keep(Napi::Persistent(buffers)), deferred(env) {}

  std::shared_ptr<PlanState> plan;
  std::unique_ptr<Call> call;
  // The caller's buffers stay referenced until the job is settled.
  Napi::Reference<Napi::Array> keep;
  Napi::Promise::Deferred deferred;
  fusco_status status = FUSCO_OK;
  fusco_stats stats{};
  fusco_error error{};
};

// All members belong to the JavaScript thread of the environment that made the engine, but for what `mutex_`
// guards.
class Engine : public std::enable_shared_from_this<Engine> {
 public:
  Engine(Napi::Env env, const fusco_context_options &options);
  ~Engine();
  Engine(const Engine &) = delete;
  Engine &operator=(const Engine &) = delete;

  fusco_context *handle() const { return handle_; }
  bool closed() const { return closed_; }
  void adopt(const std::shared_ptr<PlanState> &plan);

  // Queues the job; its promise settles on the JavaScript thread.
  void submit(std::unique_ptr<Job> job);

  // Refuses further calls. What is in flight finishes and settles; then the plans, threads and the context
  // go.
  void close();

 private:
  void start();
  void serve();
  void settle(Napi::Env env);
  void stopThread();
  void releaseAll();
  static void onDone(napi_env env, napi_value callback, void *context, void *data);
  static void onEnvironmentEnd(void *engine);

  napi_env env_;
  fusco_context *handle_ = nullptr;
  bool closed_ = false;
  size_t inFlight_ = 0;
  std::vector<std::weak_ptr<PlanState>> plans_;
  napi_threadsafe_function wake_ = nullptr;
  std::thread thread_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Job>> queue_;
  std::vector<std::unique_ptr<Job>> done_;
  bool stopping_ = false;
};

}  // namespace fusco_node
