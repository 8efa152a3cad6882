#include "engine.hpp"

#include <algorithm>

namespace fusco_node {

PlanState::PlanState(Napi::Env env, std::shared_ptr<Engine> engine, const fusco_plan_desc &desc)
    : engine_(std::move(engine)) {
  run(env, fusco_plan_create, engine_->handle(), &desc, &handle_);
}

void PlanState::release() { fusco_plan_destroy(std::exchange(handle_, nullptr)); }

Engine::Engine(Napi::Env env, const fusco_context_options &options)
    : worker_(std::make_shared<Worker>(env, "fusco.exchange")) {
  run(env, fusco_context_create, &options, &handle_);
  worker_->whenIdle([this] {
    if (closed_) releaseAll();
  });
}

Engine::~Engine() {
  worker_->whenIdle(nullptr);
  worker_->stop();
  fusco_context_destroy(handle_);
}

void Engine::adopt(const std::shared_ptr<PlanState> &plan) {
  std::erase_if(plans_, [](const std::weak_ptr<PlanState> &other) { return other.expired(); });
  plans_.push_back(plan);
}

void Engine::close() {
  if (closed_) return;
  closed_ = true;
  if (worker_->isIdle()) releaseAll();
}

void Engine::releaseAll() {
  worker_->stop();
  for (const std::weak_ptr<PlanState> &plan : plans_) {
    if (const std::shared_ptr<PlanState> alive = plan.lock()) alive->release();
  }
  plans_.clear();
  fusco_context_destroy(std::exchange(handle_, nullptr));
}

}  // namespace fusco_node
