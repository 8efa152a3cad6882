#include "nccl.hpp"

#include <cstring>

#include "cuda.hpp"

namespace fusco_node {

namespace {

constexpr napi_type_tag groupTag = {0x3c9d0e71a52b48f6, 0x6b7c8d9eaf012345};

uint64_t numberAt(const Napi::CallbackInfo &info, size_t index) {
  const double number = info[index].IsNumber() ? info[index].As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= 9007199254740992.0)) {
    refuse(info.Env(), FUSCO_E_OPTION,
           "argument " + std::to_string(index) + " must be a whole number from 0");
  }
  return static_cast<uint64_t>(number);
}

fusco_nccl_step stepAt(const Napi::CallbackInfo &info) {
  bool lossless = false;
  const uint64_t digest = info[1].IsBigInt() ? info[1].As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (!lossless) refuse(info.Env(), FUSCO_E_OPTION, "the digest must be a 64-bit BigInt");
  return {numberAt(info, 0), digest};
}

// The elements of a typed array of `T`.
template <class T>
std::vector<T> elementsOf(const Napi::Value &value, const char *name, size_t count) {
  Napi::Array keep = Napi::Array::New(value.Env());
  const fusco_buffer bytes = memoryOf(value, name, 0, keep);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().ElementSize() != sizeof(T) ||
      bytes.bytes != count * sizeof(T)) {
    refuse(value.Env(), FUSCO_E_OPTION,
           std::string(name) + " must be a typed array of " + std::to_string(count) + " elements");
  }
  const auto *first = static_cast<const T *>(bytes.data);
  return {first, first + count};
}

// A call of the C interface as a task: `work` fills the error, `result` makes the value of the promise.
class Simple final : public Task {
 public:
  using Work = std::function<fusco_status(fusco_error *)>;
  using Result = std::function<Napi::Value(Napi::Env)>;
  Simple(Napi::Env env, Work work, Result result, Napi::Reference<Napi::Array> keep = {})
      : Task(env), work_(std::move(work)), result_(std::move(result)), keep_(std::move(keep)) {}

  void run() override { status_ = work_(&error_); }
  void settle(Napi::Env env) override {
    if (status_ == FUSCO_OK) {
      deferred.Resolve(result_ ? result_(env) : env.Undefined());
    } else {
      deferred.Reject(errorOf(env, error_).Value());
    }
  }

 private:
  Work work_;
  Result result_;
  Napi::Reference<Napi::Array> keep_;
  fusco_status status_ = FUSCO_OK;
  fusco_error error_{};
};

Napi::Value submit(Worker &worker, std::unique_ptr<Task> task) {
  const Napi::Value promise = task->deferred.Promise();
  worker.submit(std::move(task));
  return promise;
}

fusco_status notOpen(fusco_error *error) {
  error->status = FUSCO_E_CLOSED;
  error->rank = -1;
  std::snprintf(error->message, sizeof error->message, "the group or the plan is not open");
  return FUSCO_E_CLOSED;
}

// What an exchange reports, with room for every peer where that was asked for.
struct Report {
  explicit Report(uint32_t ranks) : sent(ranks), received(ranks), wait(ranks), wire(ranks) {}
  fusco_nccl_report report{};
  std::vector<uint64_t> sent, received, wait, wire;
  fusco_nccl_peers peers() { return {sent.data(), received.data(), wait.data(), wire.data()}; }
};

Napi::Value numbersOf(Napi::Env env, const std::vector<uint64_t> &values) {
  Napi::Float64Array array = Napi::Float64Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); i++) array[i] = static_cast<double>(values[i]);
  return array;
}

Napi::Value reportObject(Napi::Env env, const Report &found, bool detailed) {
  const fusco_nccl_report &report = found.report;
  Napi::Object object = statsObject(env, report.stats);
  const auto set = [&](const char *name, uint64_t value) {
    object.Set(name, Napi::Number::New(env, static_cast<double>(value)));
  };
  set("wireSent", report.wire_sent);
  set("wireReceived", report.wire_received);
  set("directBytes", report.direct_written);
  set("readyNs", report.ready_ns);
  set("steps", report.steps);
  set("slices", report.slices);
  if (!detailed) return object;
  set("packNs", report.pack_ns);
  set("packHiddenNs", report.pack_hidden_ns);
  set("wireNs", report.wire_ns);
  Napi::Object peers = Napi::Object::New(env);
  peers.Set("sentBytes", numbersOf(env, found.sent));
  peers.Set("receivedBytes", numbersOf(env, found.received));
  peers.Set("waitNs", numbersOf(env, found.wait));
  peers.Set("wireNs", numbersOf(env, found.wire));
  object.Set("peers", peers);
  return object;
}

}  // namespace

Napi::Value ncclLibrary(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  fusco_nccl_library library{};
  fusco_error error{};
  const std::string path = info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "";
  if (fusco_nccl_open(path.empty() ? nullptr : path.c_str(), &library, &error) != FUSCO_OK) {
    result.Set("reason", std::string(error.message));
    return result;
  }
  result.Set("path", std::string(library.path));
  result.Set("version", library.version);
  return result;
}

Napi::Value ncclUniqueId(const Napi::CallbackInfo &info) {
  Napi::Uint8Array id = Napi::Uint8Array::New(info.Env(), FUSCO_NCCL_ID_BYTES);
  fusco_error error{};
  if (fusco_nccl_unique_id(id.Data(), &error) != FUSCO_OK) throw errorOf(info.Env(), error);
  return id;
}

NcclState::NcclState(Napi::Env env, uint32_t groupRanks)
    : worker(std::make_shared<Worker>(env, "fusco.nccl")), ranks(groupRanks) {
  worker->whenStopping([this] { abort("the process ends"); });
}

void NcclState::abort(const std::string &why) {
  const std::lock_guard<std::mutex> lock(mutex);
  aborted = true;
  abortedWhy = why;
  fusco_nccl_abort(handle, why.c_str());
}

NcclState::~NcclState() {
  worker->stop();
  fusco_nccl_group_destroy(handle);
}

Napi::Function NcclGroup::define(Napi::Env env) {
  return DefineClass(env, "NcclGroup",
                     {
                         InstanceMethod<&NcclGroup::open>("open"),
                         InstanceMethod<&NcclGroup::allGather>("allGather"),
                         InstanceMethod<&NcclGroup::abort>("abort"),
                         InstanceMethod<&NcclGroup::close>("close"),
                     });
}

NcclGroup::NcclGroup(const Napi::CallbackInfo &info) : Napi::ObjectWrap<NcclGroup>(info) {
  const Napi::Env env = info.Env();
  desc_.context = CudaContext::handleOf(info[0]);
  const Napi::Object object = objectArgument(info, 1);
  desc_.ranks = static_cast<uint32_t>(integerField(object, "ranks", 0, UINT32_MAX));
  desc_.rank = static_cast<uint32_t>(integerField(object, "rank", 0, UINT32_MAX));
  desc_.max_ctas = static_cast<uint32_t>(integerField(object, "maxCtas", 0, UINT32_MAX));
  desc_.step_bytes = integerField(object, "stepBytes", 0, uint64_t{1} << 40);
  desc_.deadline_ns = integerField(object, "deadlineMs", 60000, 1u << 30) * 1000000;
  board_ = textField(object, "board", "");
  if (!board_.empty()) desc_.board = board_.c_str();
  hosts_ = elementsOf<uint32_t>(object.Get("hosts"), "hosts", desc_.ranks);
  desc_.hosts = hosts_.data();
  const auto id = elementsOf<uint8_t>(object.Get("id"), "id", FUSCO_NCCL_ID_BYTES);
  std::memcpy(desc_.id, id.data(), sizeof desc_.id);
  context_ = Napi::Persistent(info[0].As<Napi::Object>());
  state_ = std::make_shared<NcclState>(env, desc_.ranks);
  Value().TypeTag(&groupTag);
}

std::shared_ptr<NcclState> NcclGroup::stateOf(const Napi::Value &value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&groupTag)) {
    refuse(value.Env(), FUSCO_E_OPTION, "the argument must be an NcclGroup");
  }
  return Unwrap(value.As<Napi::Object>())->live(value.Env());
}

std::shared_ptr<NcclState> NcclGroup::live(Napi::Env env) const {
  if (state_ == nullptr) refuse(env, FUSCO_E_CLOSED, "the group is closed");
  return state_;
}

Napi::Value NcclGroup::open(const Napi::CallbackInfo &info) {
  const std::shared_ptr<NcclState> state = live(info.Env());
  const auto work = [state, this](fusco_error *error) {
    fusco_nccl_group *made = nullptr;
    const fusco_status status = fusco_nccl_group_create(&desc_, &made, error);
    const std::lock_guard<std::mutex> lock(state->mutex);
    state->handle = made;
    if (state->aborted) fusco_nccl_abort(made, state->abortedWhy.c_str());
    return status;
  };
  // The object itself stays referenced: it owns what the description points to.
  Napi::Array keep = Napi::Array::New(info.Env());
  keep.Set(0u, info.This());
  return submit(*state->worker, std::make_unique<Simple>(info.Env(), work, nullptr, Napi::Persistent(keep)));
}

Napi::Value NcclGroup::allGather(const Napi::CallbackInfo &info) {
  const std::shared_ptr<NcclState> state = live(info.Env());
  const fusco_nccl_step step = stepAt(info);
  Napi::Array keep = Napi::Array::New(info.Env());
  const fusco_buffer own = memoryOf(info[2], "the contribution", 0, keep);
  Napi::Uint8Array all = Napi::Uint8Array::New(info.Env(), own.bytes * state->ranks);
  keep.Set(keep.Length(), all);
  uint8_t *to = all.Data();
  const auto work = [state, step, own, to](fusco_error *error) {
    if (state->handle == nullptr) return notOpen(error);
    return fusco_nccl_all_gather(state->handle, &step, own.data, to, own.bytes, error);
  };
  auto reference = std::make_shared<Napi::Reference<Napi::Uint8Array>>(Napi::Persistent(all));
  const auto result = [reference](Napi::Env) -> Napi::Value { return reference->Value(); };
  return submit(*state->worker, std::make_unique<Simple>(info.Env(), work, result, Napi::Persistent(keep)));
}

void NcclGroup::abort(const Napi::CallbackInfo &info) {
  if (state_ == nullptr) return;
  state_->abort(info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "aborted");
}

Napi::Value NcclGroup::close(const Napi::CallbackInfo &info) {
  if (state_ == nullptr) {
    const auto deferred = Napi::Promise::Deferred::New(info.Env());
    deferred.Resolve(info.Env().Undefined());
    return deferred.Promise();
  }
  const std::shared_ptr<NcclState> state = state_;
  state_ = nullptr;
  const auto work = [state](fusco_error *) {
    fusco_nccl_group *handle = nullptr;
    {
      const std::lock_guard<std::mutex> lock(state->mutex);
      std::swap(handle, state->handle);
    }
    fusco_nccl_group_destroy(handle);
    return FUSCO_OK;
  };
  return submit(*state->worker, std::make_unique<Simple>(info.Env(), work, nullptr));
}

Napi::Function NcclPlan::define(Napi::Env env) {
  return DefineClass(env, "NcclPlan",
                     {
                         InstanceMethod<&NcclPlan::open>("open"),
                         InstanceMethod<&NcclPlan::bytes>("bytes"),
                         InstanceMethod<&NcclPlan::dispatch>("dispatch"),
                         InstanceMethod<&NcclPlan::combine>("combine"),
                         InstanceMethod<&NcclPlan::weightGradient>("weightGradient"),
                         InstanceMethod<&NcclPlan::unfusedDispatch>("unfusedDispatch"),
                         InstanceMethod<&NcclPlan::unfusedCombine>("unfusedCombine"),
                         InstanceMethod<&NcclPlan::close>("close"),
                     });
}

NcclPlan::NcclPlan(const Napi::CallbackInfo &info) : Napi::ObjectWrap<NcclPlan>(info) {
  const Napi::Env env = info.Env();
  state_ = std::make_shared<NcclPlanState>(NcclGroup::stateOf(info[0]));
  const uint32_t ranks = state_->group->ranks;
  const Napi::Object object = objectArgument(info, 1);
  Napi::Array keep = Napi::Array::New(env);
  desc_.shard = memoryOf(object.Get("shard"), "the shard", 0, keep);
  keep_ = Napi::Persistent(keep);
  const std::string strategy = textField(object, "strategy", "flat");
  const std::string partial = textField(object, "partial", "payload");
  if (strategy != "flat" && strategy != "hier") refuse(env, FUSCO_E_OPTION, "strategy must be flat or hier");
  if (partial != "payload" && partial != "f32") refuse(env, FUSCO_E_OPTION, "partial must be payload or f32");
  desc_.strategy = strategy == "hier" ? FUSCO_STRATEGY_HIER : FUSCO_STRATEGY_FLAT;
  desc_.partial = partial == "f32" ? FUSCO_PARTIAL_F32 : FUSCO_PARTIAL_PAYLOAD;
  desc_.ranks_per_node = static_cast<uint32_t>(integerField(object, "ranksPerNode", 0, UINT32_MAX));
  desc_.most_entries = static_cast<uint32_t>(integerField(object, "mostEntries", 0, UINT32_MAX));
  desc_.most_forwarded = static_cast<uint32_t>(integerField(object, "mostForwarded", 0, UINT32_MAX));
  desc_.slice_rows = static_cast<uint32_t>(integerField(object, "sliceRows", 0, UINT32_MAX));
  firstInstance_ = elementsOf<uint32_t>(object.Get("firstInstance"), "firstInstance", size_t{ranks} + 1);
  desc_.first_instance = firstInstance_.data();
  if (!object.Get("groups").IsUndefined()) {
    groups_ = elementsOf<uint16_t>(object.Get("groups"), "groups", ranks);
    desc_.groups = groups_.data();
  }
}

std::shared_ptr<NcclPlanState> NcclPlan::live(Napi::Env env) const {
  if (state_ == nullptr) refuse(env, FUSCO_E_CLOSED, "the plan is closed");
  return state_;
}

Napi::Value NcclPlan::open(const Napi::CallbackInfo &info) {
  const std::shared_ptr<NcclPlanState> state = live(info.Env());
  const fusco_nccl_step step = stepAt(info);
  const auto work = [state, step, this](fusco_error *error) {
    if (state->group->handle == nullptr) return notOpen(error);
    return fusco_nccl_plan_create(state->group->handle, &step, &desc_, &state->handle, error);
  };
  Napi::Array keep = Napi::Array::New(info.Env());
  keep.Set(0u, info.This());
  return submit(*state->group->worker,
                std::make_unique<Simple>(info.Env(), work, nullptr, Napi::Persistent(keep)));
}

Napi::Value NcclPlan::bytes(const Napi::CallbackInfo &info) {
  const fusco_nccl_bytes found = fusco_nccl_plan_bytes(live(info.Env())->handle, numberAt(info, 0));
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("tables", static_cast<double>(found.tables));
  object.Set("dispatch", static_cast<double>(found.dispatch));
  object.Set("combine", static_cast<double>(found.combine));
  return object;
}

Napi::Value NcclPlan::exchange(const Napi::CallbackInfo &info, Exchange kind) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<NcclPlanState> state = live(env);
  const fusco_nccl_step step = stepAt(info);
  const bool detailed = info[3].ToBoolean();
  Napi::Array keep = Napi::Array::New(env);
  auto call = std::make_shared<Call>(kind, objectArgument(info, 2), 1, keep);
  auto report = std::make_shared<Report>(detailed ? state->group->ranks : 0);
  const auto work = [=](fusco_error *error) {
    if (state->group->handle == nullptr || state->handle == nullptr) return notOpen(error);
    fusco_nccl_peers peers = report->peers();
    const fusco_nccl_peers *asked = detailed ? &peers : nullptr;
    switch (kind) {
      case Exchange::dispatch:
        return fusco_nccl_dispatch(state->handle, &step, &call->dispatch(), &report->report, asked, error);
      case Exchange::combine:
        return fusco_nccl_combine(state->handle, &step, &call->combine(), &report->report, asked, error);
      case Exchange::weightGradient:
        return fusco_nccl_weight_gradient(state->handle, &step, &call->weightGradient(), &report->report,
                                          asked, error);
    }
    return FUSCO_E_INTERNAL;
  };
  const auto result = [report, detailed](Napi::Env now) { return reportObject(now, *report, detailed); };
  return submit(*state->group->worker, std::make_unique<Simple>(env, work, result, Napi::Persistent(keep)));
}

Napi::Value NcclPlan::dispatch(const Napi::CallbackInfo &info) { return exchange(info, Exchange::dispatch); }

Napi::Value NcclPlan::combine(const Napi::CallbackInfo &info) { return exchange(info, Exchange::combine); }

Napi::Value NcclPlan::weightGradient(const Napi::CallbackInfo &info) {
  return exchange(info, Exchange::weightGradient);
}

Napi::Value NcclPlan::unfused(const Napi::CallbackInfo &info, Exchange kind) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<NcclPlanState> state = live(env);
  const fusco_nccl_step step = stepAt(info);
  const uint64_t rowBytes = numberAt(info, 3);
  Napi::Array keep = Napi::Array::New(env);
  auto call = std::make_shared<Call>(kind, objectArgument(info, 2), 1, keep);
  auto stats = std::make_shared<fusco_stats>();
  const auto work = [=](fusco_error *error) {
    if (state->handle == nullptr) return notOpen(error);
    if (state->unfused == nullptr) {
      const fusco_status made = fusco_nccl_unfused_create(state->handle, rowBytes, &state->unfused, error);
      if (made != FUSCO_OK) return made;
    }
    if (kind == Exchange::dispatch) {
      const fusco_payload &payload = call->dispatch().payloads[0];
      return fusco_nccl_unfused_dispatch(state->unfused, &step, payload.from, payload.to, stats.get(), error);
    }
    return fusco_nccl_unfused_combine(state->unfused, &step, &call->combine(), stats.get(), error);
  };
  const auto result = [stats](Napi::Env now) -> Napi::Value { return statsObject(now, *stats); };
  return submit(*state->group->worker, std::make_unique<Simple>(env, work, result, Napi::Persistent(keep)));
}

Napi::Value NcclPlan::unfusedDispatch(const Napi::CallbackInfo &info) {
  return unfused(info, Exchange::dispatch);
}

Napi::Value NcclPlan::unfusedCombine(const Napi::CallbackInfo &info) {
  return unfused(info, Exchange::combine);
}

Napi::Value NcclPlan::close(const Napi::CallbackInfo &info) {
  if (state_ == nullptr) {
    const auto deferred = Napi::Promise::Deferred::New(info.Env());
    deferred.Resolve(info.Env().Undefined());
    return deferred.Promise();
  }
  const std::shared_ptr<NcclPlanState> state = state_;
  state_ = nullptr;
  const auto work = [state](fusco_error *) {
    fusco_nccl_unfused_destroy(state->unfused);
    fusco_nccl_plan_destroy(state->handle);
    state->unfused = nullptr;
    state->handle = nullptr;
    return FUSCO_OK;
  };
  return submit(*state->group->worker, std::make_unique<Simple>(info.Env(), work, nullptr));
}

}  // namespace fusco_node
