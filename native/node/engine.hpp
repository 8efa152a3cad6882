// One context of the host backend with the thread that runs its asynchronous exchanges.
#pragma once

#include "worker.hpp"

namespace fusco_node {

class Engine;

// A native plan and the engine that it belongs to; shared by its JavaScript object and by the tasks in
// flight.
class PlanState {
 public:
  // Throws what fusco_plan_create refuses.
  PlanState(Napi::Env env, std::shared_ptr<Engine> engine, const fusco_plan_desc &desc);
  ~PlanState() { release(); }
  PlanState(const PlanState &) = delete;
  PlanState &operator=(const PlanState &) = delete;

  fusco_plan *handle() const { return handle_; }
  Engine &engine() const { return *engine_; }
  // Frees the native plan; idempotent. No task may be using it.
  void release();

 private:
  std::shared_ptr<Engine> engine_;
  fusco_plan *handle_ = nullptr;
};

// Belongs to the JavaScript thread of the environment that made it.
class Engine {
 public:
  Engine(Napi::Env env, const fusco_context_options &options);
  ~Engine();
  Engine(const Engine &) = delete;
  Engine &operator=(const Engine &) = delete;

  fusco_context *handle() const { return handle_; }
  bool closed() const { return closed_; }
  Worker &worker() { return *worker_; }
  void adopt(const std::shared_ptr<PlanState> &plan);

  // Refuses further calls. What is in flight finishes and settles; then the plans, threads and the context
  // are freed.
  void close();

 private:
  void releaseAll();

  fusco_context *handle_ = nullptr;
  bool closed_ = false;
  std::vector<std::weak_ptr<PlanState>> plans_;
  std::shared_ptr<Worker> worker_;
};

}  // namespace fusco_node
