#include "engine.hpp"

#include <algorithm>
#include <system_error>

namespace fusco_node {

PlanState::PlanState(Napi::Env env, std::shared_ptr<Engine> engine, const fusco_plan_desc &desc)
    : engine_(std::move(engine)) {
  fusco_error error{};
  if (fusco_plan_create(engine_->handle(), &desc, &handle_, &error) != FUSCO_OK) throw errorOf(env, error);
}

void PlanState::release() {
  fusco_plan_destroy(handle_);
  handle_ = nullptr;
}

Engine::Engine(Napi::Env env, const fusco_context_options &options) : env_(env) {
  fusco_error error{};
  if (fusco_context_create(&options, &handle_, &error) != FUSCO_OK) throw errorOf(env, error);
}

Engine::~Engine() {
  stopThread();
  fusco_context_destroy(handle_);
}

void Engine::adopt(const std::shared_ptr<PlanState> &plan) {
  std::erase_if(plans_, [](const std::weak_ptr<PlanState> &other) { return other.expired(); });
  plans_.push_back(plan);
}

void Engine::submit(std::unique_ptr<Job> job) {
  if (wake_ == nullptr) start();
  // While something is in flight the event loop must not end.
  if (inFlight_++ == 0) napi_ref_threadsafe_function(env_, wake_);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(job));
  }
  changed_.notify_one();
}

void Engine::start() {
  const Napi::Env env(env_);
  // The callback may come after the engine is gone, so it holds no more than a weak pointer.
  auto self = std::make_unique<std::weak_ptr<Engine>>(weak_from_this());
  const auto forget = [](napi_env, void *, void *context) {
    delete static_cast<std::weak_ptr<Engine> *>(context);
  };
  NAPI_THROW_IF_FAILED_VOID(
      env, napi_create_threadsafe_function(env_, nullptr, nullptr, Napi::String::New(env, "fusco.exchange"),
                                           0, 1, nullptr, forget, self.get(), onDone, &wake_));
  self.release();
  napi_unref_threadsafe_function(env_, wake_);
  try {
    thread_ = std::thread([this] { serve(); });
  } catch (const std::system_error &failure) {
    napi_release_threadsafe_function(wake_, napi_tsfn_release);
    wake_ = nullptr;
    refuse(env, FUSCO_E_MEMORY, std::string("no thread for the exchanges: ") + failure.what());
  }
  // Hooks run in reverse order: this one ends the thread before the environment ends what the thread calls.
  napi_add_env_cleanup_hook(env_, onEnvironmentEnd, this);
}

void Engine::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    std::unique_ptr<Job> job = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    job->status = job->call->run(job->plan->handle(), &job->stats, &job->error);
    lock.lock();
    done_.push_back(std::move(job));
    napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
  }
}

void Engine::onDone(napi_env env, napi_value, void *context, void *) {
  if (env == nullptr) return;
  // Held to the end: settling the last job may drop the last other reference.
  const std::shared_ptr<Engine> engine = static_cast<std::weak_ptr<Engine> *>(context)->lock();
  if (engine == nullptr) return;
  try {
    engine->settle(Napi::Env(env));
  } catch (const Napi::Error &) {
    // The environment is being terminated; there is nobody left to tell.
  }
}

void Engine::settle(Napi::Env env) {
  std::vector<std::unique_ptr<Job>> done;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    done.swap(done_);
  }
  inFlight_ -= done.size();
  if (!done.empty() && inFlight_ == 0) {
    napi_unref_threadsafe_function(env_, wake_);
    if (closed_) releaseAll();
  }
  for (const std::unique_ptr<Job> &job : done) {
    if (job->status == FUSCO_OK) {
      job->deferred.Resolve(statsObject(env, job->stats));
    } else {
      job->deferred.Reject(errorOf(env, job->error).Value());
    }
  }
}

void Engine::close() {
  if (closed_) return;
  closed_ = true;
  if (inFlight_ == 0) releaseAll();
}

void Engine::releaseAll() {
  stopThread();
  for (const std::weak_ptr<PlanState> &plan : plans_) {
    if (const std::shared_ptr<PlanState> alive = plan.lock()) alive->release();
  }
  plans_.clear();
  fusco_context_destroy(handle_);
  handle_ = nullptr;
}

void Engine::stopThread() {
  if (wake_ == nullptr) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
  napi_remove_env_cleanup_hook(env_, onEnvironmentEnd, this);
  napi_release_threadsafe_function(wake_, napi_tsfn_release);
  wake_ = nullptr;
}

void Engine::onEnvironmentEnd(void *engine) {
  auto *self = static_cast<Engine *>(engine);
  // Destroying the jobs may drop the last references to the engine.
  const std::shared_ptr<Engine> alive = self->shared_from_this();
  self->closed_ = true;
  self->stopThread();
  self->queue_.clear();
  self->done_.clear();
}

}  // namespace fusco_node
