#include "worker.hpp"

#include <system_error>

namespace fusco_node {

Task::Task(Napi::Env env, Work work, Result result, const Napi::Array &keep)
    : deferred_(env), work_(std::move(work)), result_(std::move(result)), keep_(Napi::Persistent(keep)) {}

void Task::settle(Napi::Env env) {
  if (status_ == FUSCO_OK) {
    deferred_.Resolve(result_ ? result_(env) : env.Undefined());
  } else {
    deferred_.Reject(errorOf(env, error_).Value());
  }
}

Napi::Promise Worker::submit(Task::Work work, Task::Result result, const Napi::Array &keep) {
  if (wake_ == nullptr) start();
  auto task = std::make_unique<Task>(Napi::Env(env_), std::move(work), std::move(result), keep);
  const Napi::Promise promise = task->promise();
  // While something is in flight the event loop must not end.
  if (inFlight_++ == 0) napi_ref_threadsafe_function(env_, wake_);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(task));
  }
  changed_.notify_one();
  return promise;
}

void Worker::start() {
  const Napi::Env env(env_);
  // The callback may run after the worker was destroyed, so it holds a weak pointer.
  auto self = std::make_unique<std::weak_ptr<Worker>>(weak_from_this());
  const auto forget = [](napi_env, void *, void *context) {
    delete static_cast<std::weak_ptr<Worker> *>(context);
  };
  NAPI_THROW_IF_FAILED_VOID(
      env, napi_create_threadsafe_function(env_, nullptr, nullptr, Napi::String::New(env, name_), 0, 1,
                                           nullptr, forget, self.get(), onDone, &wake_));
  self.release();
  napi_unref_threadsafe_function(env_, wake_);
  try {
    thread_ = std::thread([this] { serve(); });
  } catch (const std::system_error &failure) {
    napi_release_threadsafe_function(wake_, napi_tsfn_release);
    wake_ = nullptr;
    refuse(env, FUSCO_E_MEMORY, std::string("no thread for ") + name_ + ": " + failure.what());
  }
  // Hooks run in reverse order: this one ends the thread before the environment ends what the thread calls.
  napi_add_env_cleanup_hook(env_, onEnvironmentEnd, this);
}

void Worker::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    std::unique_ptr<Task> task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    task->run();
    lock.lock();
    done_.push_back(std::move(task));
    napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
  }
}

void Worker::onDone(napi_env env, napi_value, void *context, void *) {
  if (env == nullptr) return;
  // Held to the end: settling the last task may drop the last other reference.
  const std::shared_ptr<Worker> worker = static_cast<std::weak_ptr<Worker> *>(context)->lock();
  if (worker == nullptr) return;
  try {
    worker->settle(Napi::Env(env));
  } catch (const Napi::Error &) {
    // The environment is being terminated: the promise has no observer.
  }
}

void Worker::settle(Napi::Env env) {
  std::vector<std::unique_ptr<Task>> done;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    done.swap(done_);
  }
  inFlight_ -= done.size();
  if (!done.empty() && inFlight_ == 0) {
    napi_unref_threadsafe_function(env_, wake_);
    if (idle_) idle_();
  }
  for (const std::unique_ptr<Task> &task : done) task->settle(env);
}

void Worker::stop() {
  if (wake_ == nullptr) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  if (interrupt_) interrupt_();
  thread_.join();
  napi_remove_env_cleanup_hook(env_, onEnvironmentEnd, this);
  napi_release_threadsafe_function(wake_, napi_tsfn_release);
  wake_ = nullptr;
}

void Worker::onEnvironmentEnd(void *worker) {
  auto *self = static_cast<Worker *>(worker);
  // Destroying the tasks may drop the last references to the worker.
  const std::shared_ptr<Worker> alive = self->shared_from_this();
  self->stop();
  self->queue_.clear();
  self->done_.clear();
}

}  // namespace fusco_node
