#include "handles.hpp"

namespace fusco_node {

namespace {

// Marks our objects, so that another object in their place is refused instead of misread.
constexpr napi_type_tag contextTag = {0x9c1f3b5a7d2e4068, 0xa1b2c3d4e5f60718};
constexpr napi_type_tag planTag = {0x51d07e9b64a83c2f, 0xe8f90a1b2c3d4e5f};

constexpr uint64_t maxStreamBytes = uint64_t{1} << 53;

}  // namespace

Napi::Function Context::define(Napi::Env env) {
  return DefineClass(env, "Context",
                     {
                         InstanceAccessor<&Context::threads>("threads"),
                         InstanceAccessor<&Context::kernels>("kernels"),
                         InstanceAccessor<&Context::closed>("closed"),
                         InstanceMethod<&Context::close>("close"),
                     });
}

Context::Context(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Context>(info) {
  const Napi::Object object = objectArgument(info, 0);
  fusco_context_options options{};
  options.threads = static_cast<uint32_t>(integerField(object, "threads", 0, UINT32_MAX));
  options.stream_bytes = integerField(object, "streamBytes", 0, maxStreamBytes);
  const std::string kernels = textField(object, "kernels", "auto");
  if (kernels != "auto" && kernels != "portable") {
    refuse(info.Env(), FUSCO_E_OPTION, "kernels must be auto or portable");
  }
  options.kernels = kernels == "auto" ? FUSCO_KERNELS_AUTO : FUSCO_KERNELS_PORTABLE;
  engine_ = std::make_shared<Engine>(info.Env(), options);
  Value().TypeTag(&contextTag);
}

std::shared_ptr<Engine> Context::engineOf(const Napi::Value &value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&contextTag)) {
    refuse(value.Env(), FUSCO_E_OPTION, "the argument must be a Context");
  }
  std::shared_ptr<Engine> engine = Unwrap(value.As<Napi::Object>())->engine_;
  if (engine->closed()) refuse(value.Env(), FUSCO_E_CLOSED, "the context is closed");
  return engine;
}

Napi::Value Context::threads(const Napi::CallbackInfo &info) {
  return Napi::Number::New(info.Env(), fusco_context_threads(engine_->handle()));
}

Napi::Value Context::kernels(const Napi::CallbackInfo &info) {
  return Napi::String::New(info.Env(), fusco_context_kernels(engine_->handle()));
}

Napi::Value Context::closed(const Napi::CallbackInfo &info) {
  return Napi::Boolean::New(info.Env(), engine_->closed());
}

void Context::close(const Napi::CallbackInfo &) { engine_->close(); }

Napi::Function Plan::define(Napi::Env env) {
  return DefineClass(env, "Plan",
                     {
                         InstanceAccessor<&Plan::closed>("closed"),
                         InstanceMethod<&Plan::dispatch>("dispatch"),
                         InstanceMethod<&Plan::dispatchSync>("dispatchSync"),
                         InstanceMethod<&Plan::combine>("combine"),
                         InstanceMethod<&Plan::combineSync>("combineSync"),
                         InstanceMethod<&Plan::weightGradient>("weightGradient"),
                         InstanceMethod<&Plan::weightGradientSync>("weightGradientSync"),
                         InstanceMethod<&Plan::close>("close"),
                     });
}

Plan::Plan(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Plan>(info) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<Engine> engine = Context::engineOf(info[0]);
  const Napi::Object object = objectArgument(info, 1);
  const Napi::Value list = object.Get("shards");
  if (!list.IsArray()) refuse(env, FUSCO_E_OPTION, "shards must be an array");
  Napi::Array keep = Napi::Array::New(env);
  const uint32_t ranks = list.As<Napi::Array>().Length();
  const std::vector<fusco_buffer> shards = memoriesOf(list, "the shard", ranks, keep);
  const std::string strategy = textField(object, "strategy", "flat");
  if (strategy != "flat" && strategy != "hier") refuse(env, FUSCO_E_OPTION, "strategy must be flat or hier");
  fusco_plan_desc desc{};
  desc.ranks = ranks;
  desc.ranks_per_node = static_cast<uint32_t>(integerField(object, "ranksPerNode", 0, UINT32_MAX));
  desc.strategy = strategy == "flat" ? FUSCO_STRATEGY_FLAT : FUSCO_STRATEGY_HIER;
  const std::string partial = textField(object, "partial", "payload");
  if (partial != "payload" && partial != "f32") refuse(env, FUSCO_E_OPTION, "partial must be payload or f32");
  desc.partial = partial == "f32" ? FUSCO_PARTIAL_F32 : FUSCO_PARTIAL_PAYLOAD;
  desc.shards = shards.data();
  state_ = std::make_shared<PlanState>(env, engine, desc);
  engine->adopt(state_);
  // The collector cannot see native memory; without this it would be in no hurry to collect plans.
  bytes_ = static_cast<int64_t>(fusco_plan_bytes(state_->handle()));
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes_);
  Value().TypeTag(&planTag);
}

void Plan::Finalize(Napi::Env env) {
  if (bytes_ > 0) Napi::MemoryManagement::AdjustExternalMemory(env, -bytes_);
}

std::shared_ptr<PlanState> Plan::stateOf(const Napi::Value &value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&planTag)) {
    refuse(value.Env(), FUSCO_E_OPTION, "the argument must be a Plan");
  }
  return Unwrap(value.As<Napi::Object>())->open(value.Env());
}

bool Plan::isClosed() const { return state_ == nullptr || state_->engine().closed(); }

std::shared_ptr<PlanState> Plan::open(Napi::Env env) const {
  if (isClosed()) refuse(env, FUSCO_E_CLOSED, "the plan or its context is closed");
  return state_;
}

Napi::Value Plan::closed(const Napi::CallbackInfo &info) {
  return Napi::Boolean::New(info.Env(), isClosed());
}

// Jobs in flight hold the state; the last of them frees it.
void Plan::close(const Napi::CallbackInfo &info) {
  if (state_ == nullptr) return;
  state_ = nullptr;
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -bytes_);
  bytes_ = 0;
}

Napi::Value Plan::later(const Napi::CallbackInfo &info, Exchange exchange) {
  const Napi::Env env = info.Env();
  // Reading the call may run the caller's getters, and one of them may close this plan.
  const std::shared_ptr<PlanState> state = open(env);
  Napi::Array keep = Napi::Array::New(env);
  auto call =
      std::make_unique<Call>(exchange, objectArgument(info, 0), fusco_plan_ranks(state->handle()), keep);
  open(env);
  auto job = std::make_unique<Job>(env, state, std::move(call), keep);
  const Napi::Promise promise = job->deferred.Promise();
  state->engine().submit(std::move(job));
  return promise;
}

Napi::Value Plan::now(const Napi::CallbackInfo &info, Exchange exchange) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<PlanState> state = open(env);
  Napi::Array keep = Napi::Array::New(env);
  const Call call(exchange, objectArgument(info, 0), fusco_plan_ranks(state->handle()), keep);
  open(env);
  fusco_stats stats{};
  fusco_error error{};
  if (call.run(state->handle(), &stats, &error) != FUSCO_OK) throw errorOf(env, error);
  return statsObject(env, stats);
}

Napi::Value Plan::dispatch(const Napi::CallbackInfo &info) { return later(info, Exchange::dispatch); }

Napi::Value Plan::dispatchSync(const Napi::CallbackInfo &info) { return now(info, Exchange::dispatch); }

Napi::Value Plan::combine(const Napi::CallbackInfo &info) { return later(info, Exchange::combine); }

Napi::Value Plan::combineSync(const Napi::CallbackInfo &info) { return now(info, Exchange::combine); }

Napi::Value Plan::weightGradient(const Napi::CallbackInfo &info) {
  return later(info, Exchange::weightGradient);
}

Napi::Value Plan::weightGradientSync(const Napi::CallbackInfo &info) {
  return now(info, Exchange::weightGradient);
}

}  // namespace fusco_node
