// One context of the host backend with the thread that runs its asynchronous exchanges.
#pragma once

#include <memory>
#include <vector>

#include "calls.hpp"
#include "worker.hpp"

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

// An asynchronous exchange.
class Job final : public Task {
 public:
  Job(Napi::Env env, std::shared_ptr<PlanState> plan, std::unique_ptr<Call> call, const Napi::Array &buffers)
      : Task(env), plan_(std::move(plan)), call_(std::move(call)), keep_(Napi::Persistent(buffers)) {}

  void run() override { status_ = call_->run(plan_->handle(), &stats_, &error_); }
  void settle(Napi::Env env) override;

 private:
  std::shared_ptr<PlanState> plan_;
  std::unique_ptr<Call> call_;
  // The caller's buffers stay referenced until the job is settled.
  Napi::Reference<Napi::Array> keep_;
  fusco_status status_ = FUSCO_OK;
  fusco_stats stats_{};
  fusco_error error_{};
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
  void adopt(const std::shared_ptr<PlanState> &plan);

  // Queues the job; its promise settles on the JavaScript thread.
  void submit(std::unique_ptr<Job> job) { worker_->submit(std::move(job)); }

  // Refuses further calls. What is in flight finishes and settles; then the plans, threads and the context
  // go.
  void close();

 private:
  void releaseAll();

  fusco_context *handle_ = nullptr;
  bool closed_ = false;
  std::vector<std::weak_ptr<PlanState>> plans_;
  std::shared_ptr<Worker> worker_;
};

}  // namespace fusco_node
