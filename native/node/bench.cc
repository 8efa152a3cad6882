#include "bench.hpp"

namespace fusco_node {

namespace {

uint64_t integerArgument(const Napi::CallbackInfo &info, size_t index, uint64_t max) {
  const double number = info[index].IsNumber() ? info[index].As<Napi::Number>().DoubleValue() : -1;
  if (number < 0 || number > static_cast<double>(max)) {
    refuse(info.Env(), FUSCO_E_OPTION, "argument " + std::to_string(index) + " is not a number in range");
  }
  return static_cast<uint64_t>(number);
}

}  // namespace

Napi::Function Unfused::define(Napi::Env env) {
  return DefineClass(env, "Unfused",
                     {
                         InstanceMethod<&Unfused::dispatchSync>("dispatchSync"),
                         InstanceMethod<&Unfused::combineSync>("combineSync"),
                         InstanceMethod<&Unfused::close>("close"),
                     });
}

Unfused::Unfused(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Unfused>(info) {
  plan_ = Plan::stateOf(info[0]);
  const uint64_t rowBytes = integerField(objectArgument(info, 1), "rowBytes", 0, UINT32_MAX);
  fusco_error error{};
  if (fusco_unfused_create(plan_->handle(), rowBytes, &unfused_, &error) != FUSCO_OK) {
    throw errorOf(info.Env(), error);
  }
}

void Unfused::checkOpen(Napi::Env env) const {
  if (unfused_ == nullptr || plan_->engine().closed()) refuse(env, FUSCO_E_CLOSED, "the pipeline is closed");
}

Napi::Value Unfused::dispatchSync(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  checkOpen(env);
  const uint32_t ranks = fusco_plan_ranks(plan_->handle());
  Napi::Array keep = Napi::Array::New(env);
  const std::vector<fusco_buffer> from = memoriesOf(info[0], "from", ranks, keep);
  const std::vector<fusco_buffer> to = memoriesOf(info[1], "to", ranks, keep);
  checkOpen(env);
  fusco_stats stats{};
  fusco_error error{};
  if (fusco_unfused_dispatch(unfused_, from.data(), to.data(), &stats, &error) != FUSCO_OK) {
    throw errorOf(env, error);
  }
  return statsObject(env, stats);
}

Napi::Value Unfused::combineSync(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  checkOpen(env);
  Napi::Array keep = Napi::Array::New(env);
  const Call call(Exchange::combine, objectArgument(info, 0), fusco_plan_ranks(plan_->handle()), keep);
  checkOpen(env);
  fusco_stats stats{};
  fusco_error error{};
  if (fusco_unfused_combine(unfused_, &call.combine(), &stats, &error) != FUSCO_OK) throw errorOf(env, error);
  return statsObject(env, stats);
}

void Unfused::close(const Napi::CallbackInfo &) {
  fusco_unfused_destroy(unfused_);
  unfused_ = nullptr;
  plan_ = nullptr;
}

Napi::Value benchCopy(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<Engine> engine = Context::engineOf(info[0]);
  const std::string variant = info[1].ToString();
  fusco_copy_variant kind = FUSCO_COPY_MEMCPY;
  if (variant == "stream") {
    kind = FUSCO_COPY_STREAM;
  } else if (variant == "fill") {
    kind = FUSCO_COPY_FILL;
  } else if (variant != "memcpy") {
    refuse(env, FUSCO_E_OPTION, "the variant must be memcpy, stream or fill");
  }
  uint64_t best = 0;
  fusco_error error{};
  const fusco_status status =
      fusco_bench_copy(engine->handle(), kind, integerArgument(info, 2, uint64_t{1} << 47),
                       static_cast<uint32_t>(integerArgument(info, 3, 1u << 20)), &best, &error);
  if (status != FUSCO_OK) throw errorOf(env, error);
  return Napi::Number::New(env, static_cast<double>(best));
}

Napi::Value benchSlots(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  Napi::Array keep = Napi::Array::New(env);
  const fusco_buffer entries = memoryOf(info[0], "instances", 0, keep);
  uint64_t best = 0;
  fusco_error error{};
  const fusco_status status = fusco_bench_slots(
      static_cast<const uint16_t *>(entries.data), entries.bytes / 2,
      static_cast<uint32_t>(integerArgument(info, 1, UINT16_MAX)), info[2].ToBoolean() ? 1 : 0,
      static_cast<uint32_t>(integerArgument(info, 3, 1u << 20)), &best, &error);
  if (status != FUSCO_OK) throw errorOf(env, error);
  return Napi::Number::New(env, static_cast<double>(best));
}

}  // namespace fusco_node
