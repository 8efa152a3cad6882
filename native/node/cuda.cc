#include "cuda.hpp"

namespace fusco_node {

namespace {

constexpr napi_type_tag contextTag = {0x2b6d0c5e91f34a87, 0xc0ffee12d4a97b31};
constexpr napi_type_tag planTag = {0x7e13a9d2c84f5b06, 0x94d1b7305e6fa28c};
constexpr napi_type_tag eventTag = {0x5f8b21c7e0d94a36, 0x1d2e3f4a5b6c7d8e};

constexpr uint64_t maxNumber = uint64_t{1} << 53;

uint64_t numberAt(const Napi::CallbackInfo &info, size_t index) {
  const double number = info[index].IsNumber() ? info[index].As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0) || number > static_cast<double>(maxNumber)) {
    refuse(info.Env(), FUSCO_E_OPTION,
           "argument " + std::to_string(index) + " must be a whole number from 0");
  }
  return static_cast<uint64_t>(number);
}

void *addressAt(const Napi::CallbackInfo &info, size_t index) {
  bool lossless = false;
  const uint64_t address = info[index].IsBigInt() ? info[index].As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (!lossless) {
    refuse(info.Env(), FUSCO_E_OPTION, "argument " + std::to_string(index) + " must be a 64-bit BigInt");
  }
  return reinterpret_cast<void *>(static_cast<uintptr_t>(address));
}

Napi::Value addressValue(Napi::Env env, const void *address) {
  return Napi::BigInt::New(env, static_cast<uint64_t>(reinterpret_cast<uintptr_t>(address)));
}

// A plan as JavaScript describes it; what it points to lives as long as it does.
struct Desc {
  explicit Desc(const Napi::Object &object) : keep(Napi::Array::New(object.Env())) {
    const Napi::Env env = object.Env();
    const Napi::Value list = object.Get("shards");
    if (!list.IsArray()) refuse(env, FUSCO_E_OPTION, "shards must be an array");
    const uint32_t ranks = list.As<Napi::Array>().Length();
    shards = memoriesOf(list, "the shard", ranks, keep);
    const std::string strategy = textField(object, "strategy", "flat");
    const std::string partial = textField(object, "partial", "payload");
    if (strategy != "flat" && strategy != "hier")
      refuse(env, FUSCO_E_OPTION, "strategy must be flat or hier");
    if (partial != "payload" && partial != "f32")
      refuse(env, FUSCO_E_OPTION, "partial must be payload or f32");
    desc.plan.ranks = ranks;
    desc.plan.ranks_per_node = static_cast<uint32_t>(integerField(object, "ranksPerNode", 0, UINT32_MAX));
    desc.plan.strategy = strategy == "hier" ? FUSCO_STRATEGY_HIER : FUSCO_STRATEGY_FLAT;
    desc.plan.partial = partial == "f32" ? FUSCO_PARTIAL_F32 : FUSCO_PARTIAL_PAYLOAD;
    desc.plan.shards = shards.data();
    const Napi::Value given = object.Get("groups");
    if (given.IsUndefined()) return;
    const fusco_buffer bytes = memoryOf(given, "groups", 0, keep);
    if (!given.IsTypedArray() || bytes.bytes != 2 * uint64_t{ranks}) {
      refuse(env, FUSCO_E_OPTION, "groups must be a Uint16Array with one element a rank");
    }
    groups.assign(static_cast<const uint16_t *>(bytes.data),
                  static_cast<const uint16_t *>(bytes.data) + ranks);
    desc.groups = groups.data();
  }

  Napi::Array keep;
  std::vector<fusco_buffer> shards;
  std::vector<uint16_t> groups;
  fusco_cuda_plan_desc desc{};
};

fusco_cuda_path pathAt(const Napi::CallbackInfo &info, size_t index) {
  if (info[index].IsUndefined()) return FUSCO_CUDA_PATH_AUTO;
  const std::string name = info[index].ToString();
  if (name == "auto") return FUSCO_CUDA_PATH_AUTO;
  if (name == "direct") return FUSCO_CUDA_PATH_DIRECT;
  if (name == "forward") return FUSCO_CUDA_PATH_FORWARD;
  refuse(info.Env(), FUSCO_E_OPTION, "path " + name + " is not one of auto, direct, forward");
}

Napi::Value reportObject(Napi::Env env, const fusco_cuda_report &report) {
  Napi::Object object = statsObject(env, report.stats);
  object.Set("path", report.path == FUSCO_CUDA_PATH_FORWARD ? "forward" : "direct");
  object.Set("byTiles", report.by_tiles);
  return object;
}

}  // namespace

void must(Napi::Env env, fusco_status status, const fusco_error &error) {
  if (status != FUSCO_OK) throw errorOf(env, error);
}

uint32_t rankAt(const Napi::CallbackInfo &info, size_t index) {
  const uint64_t rank = numberAt(info, index);
  return rank > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(rank);
}

Napi::Value cudaDevices(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  Napi::Array devices = Napi::Array::New(env);
  result.Set("built", fusco_cuda_built() != 0);
  result.Set("devices", devices);
  fusco_error error{};
  uint32_t count = 0;
  if (fusco_cuda_device_count(&count, &error) != FUSCO_OK) {
    result.Set("reason", std::string(error.message));
    return result;
  }
  for (uint32_t i = 0; i < count; i++) {
    fusco_cuda_device_info device{};
    must(env, fusco_cuda_device(i, &device, &error), error);
    Napi::Object object = Napi::Object::New(env);
    object.Set("name", std::string(device.name));
    object.Set("totalBytes", static_cast<double>(device.total_bytes));
    object.Set("freeBytes", static_cast<double>(device.free_bytes));
    object.Set("multiprocessors", device.multiprocessors);
    object.Set("compute", std::to_string(device.compute_major) + "." + std::to_string(device.compute_minor));
    object.Set("driver", device.driver);
    object.Set("runtime", device.runtime);
    devices.Set(i, object);
  }
  return result;
}

Napi::Function CudaContext::define(Napi::Env env) {
  return DefineClass(env, "CudaContext",
                     {
                         InstanceMethod<&CudaContext::alloc>("alloc"),
                         InstanceMethod<&CudaContext::free>("free"),
                         InstanceMethod<&CudaContext::copy>("copy"),
                         InstanceMethod<&CudaContext::fill>("fill"),
                         InstanceMethod<&CudaContext::stream>("stream"),
                         InstanceMethod<&CudaContext::setStream>("setStream"),
                         InstanceMethod<&CudaContext::limitMultiprocessors>("limitMultiprocessors"),
                         InstanceMethod<&CudaContext::spin>("spin"),
                         InstanceMethod<&CudaContext::synchronize>("synchronize"),
                         InstanceMethod<&CudaContext::captureBegin>("captureBegin"),
                         InstanceMethod<&CudaContext::close>("close"),
                     });
}

CudaContext::CudaContext(const Napi::CallbackInfo &info) : Napi::ObjectWrap<CudaContext>(info) {
  const Napi::Env env = info.Env();
  const uint32_t ranks = rankAt(info, 0);
  std::vector<uint32_t> devices;
  if (!info[1].IsUndefined()) {
    if (!info[1].IsArray() || info[1].As<Napi::Array>().Length() != ranks) {
      refuse(env, FUSCO_E_OPTION, "devices must be an array with one device a rank");
    }
    for (uint32_t i = 0; i < ranks; i++) {
      const Napi::Value device = info[1].As<Napi::Array>().Get(i);
      if (!device.IsNumber()) refuse(env, FUSCO_E_OPTION, "a device is a number", static_cast<int32_t>(i));
      devices.push_back(device.As<Napi::Number>().Uint32Value());
    }
  }
  fusco_error error{};
  must(env, fusco_cuda_context_create(ranks, devices.empty() ? nullptr : devices.data(), &handle_, &error),
       error);
  Value().TypeTag(&contextTag);
}

fusco_cuda_context *CudaContext::open(Napi::Env env) const {
  if (handle_ == nullptr) refuse(env, FUSCO_E_CLOSED, "the CUDA context is closed");
  return handle_;
}

fusco_cuda_context *CudaContext::handleOf(const Napi::Value &value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&contextTag)) {
    refuse(value.Env(), FUSCO_E_OPTION, "the argument must be a CudaContext");
  }
  return Unwrap(value.As<Napi::Object>())->open(value.Env());
}

Napi::Value CudaContext::alloc(const Napi::CallbackInfo &info) {
  void *address = nullptr;
  fusco_error error{};
  must(info.Env(), fusco_cuda_alloc(open(info.Env()), rankAt(info, 0), numberAt(info, 1), &address, &error),
       error);
  return addressValue(info.Env(), address);
}

void CudaContext::free(const Napi::CallbackInfo &info) {
  fusco_error error{};
  must(info.Env(), fusco_cuda_free(open(info.Env()), addressAt(info, 0), &error), error);
}

void CudaContext::copy(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  Napi::Array keep = Napi::Array::New(env);
  const uint32_t rank = rankAt(info, 0);
  const fusco_buffer to = memoryOf(info[1], "to", rank, keep);
  const fusco_buffer from = memoryOf(info[2], "from", rank, keep);
  const uint64_t bytes = numberAt(info, 3);
  if (bytes > to.bytes || bytes > from.bytes) refuse(env, FUSCO_E_BUFFER, "a copy leaves its buffers");
  fusco_error error{};
  must(env, fusco_cuda_copy(open(env), rank, to.data, from.data, bytes, &error), error);
}

void CudaContext::fill(const Napi::CallbackInfo &info) {
  fusco_error error{};
  const auto value = static_cast<uint8_t>(numberAt(info, 2));
  must(info.Env(),
       fusco_cuda_fill(open(info.Env()), rankAt(info, 0), addressAt(info, 1), value, numberAt(info, 3),
                       &error),
       error);
}

Napi::Value CudaContext::stream(const Napi::CallbackInfo &info) {
  return addressValue(info.Env(), fusco_cuda_stream(open(info.Env()), rankAt(info, 0)));
}

void CudaContext::setStream(const Napi::CallbackInfo &info) {
  fusco_error error{};
  must(info.Env(), fusco_cuda_set_stream(open(info.Env()), rankAt(info, 0), addressAt(info, 1), &error),
       error);
}

void CudaContext::limitMultiprocessors(const Napi::CallbackInfo &info) {
  fusco_error error{};
  must(info.Env(), fusco_cuda_limit_multiprocessors(open(info.Env()), rankAt(info, 0), &error), error);
}

void CudaContext::spin(const Napi::CallbackInfo &info) {
  fusco_error error{};
  must(info.Env(), fusco_cuda_spin(open(info.Env()), rankAt(info, 0), numberAt(info, 1), &error), error);
}

void CudaContext::synchronize(const Napi::CallbackInfo &info) {
  fusco_error error{};
  must(info.Env(), fusco_cuda_synchronize(open(info.Env()), &error), error);
}

void CudaContext::captureBegin(const Napi::CallbackInfo &info) {
  fusco_error error{};
  must(info.Env(), fusco_cuda_capture_begin(open(info.Env()), &error), error);
}

void CudaContext::close(const Napi::CallbackInfo &) {
  fusco_cuda_context_destroy(handle_);
  handle_ = nullptr;
}

Napi::Function CudaPlan::define(Napi::Env env) {
  return DefineClass(env, "CudaPlan",
                     {
                         InstanceAccessor<&CudaPlan::bytes>("bytes"),
                         InstanceMethod<&CudaPlan::upload>("upload"),
                         InstanceMethod<&CudaPlan::dispatch>("dispatch"),
                         InstanceMethod<&CudaPlan::combine>("combine"),
                         InstanceMethod<&CudaPlan::weightGradient>("weightGradient"),
                         InstanceMethod<&CudaPlan::close>("close"),
                     });
}

CudaPlan::CudaPlan(const Napi::CallbackInfo &info) : Napi::ObjectWrap<CudaPlan>(info) {
  const Napi::Env env = info.Env();
  fusco_cuda_context *context = CudaContext::handleOf(info[0]);
  const Napi::Object object = objectArgument(info, 1);
  const Desc desc(object);
  fusco_cuda_capacity capacity{};
  if (object.Get("capacity").IsObject()) {
    const auto wanted = object.Get("capacity").As<Napi::Object>();
    capacity.tokens = integerField(wanted, "tokens", 0, UINT32_MAX);
    capacity.topk = static_cast<uint32_t>(integerField(wanted, "topk", 0, UINT32_MAX));
    capacity.instances = integerField(wanted, "instances", 0, UINT32_MAX);
  }
  fusco_error error{};
  must(env, fusco_cuda_plan_create(context, &capacity, &desc.desc, &handle_, &error), error);
  ranks_ = fusco_cuda_ranks(context);
  Value().TypeTag(&planTag);
}

fusco_cuda_plan *CudaPlan::open(Napi::Env env) const {
  if (handle_ == nullptr) refuse(env, FUSCO_E_CLOSED, "the CUDA plan is closed");
  return handle_;
}

fusco_cuda_plan *CudaPlan::handleOf(const Napi::Value &value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&planTag)) {
    refuse(value.Env(), FUSCO_E_OPTION, "the argument must be a CudaPlan");
  }
  return Unwrap(value.As<Napi::Object>())->open(value.Env());
}

uint32_t CudaPlan::ranksOf(const Napi::Value &value) { return Unwrap(value.As<Napi::Object>())->ranks_; }

Napi::Value CudaPlan::bytes(const Napi::CallbackInfo &info) {
  return Napi::Number::New(info.Env(), static_cast<double>(fusco_cuda_plan_bytes(handle_)));
}

void CudaPlan::upload(const Napi::CallbackInfo &info) {
  const Desc desc(objectArgument(info, 0));
  fusco_error error{};
  must(info.Env(), fusco_cuda_plan_upload(open(info.Env()), &desc.desc, &error), error);
}

Napi::Value CudaPlan::dispatch(const Napi::CallbackInfo &info) {
  Napi::Array keep = Napi::Array::New(info.Env());
  const Call call(Exchange::dispatch, objectArgument(info, 0), ranks_, keep);
  fusco_cuda_report report{};
  fusco_error error{};
  must(info.Env(), fusco_cuda_dispatch(open(info.Env()), pathAt(info, 1), &call.dispatch(), &report, &error),
       error);
  return reportObject(info.Env(), report);
}

Napi::Value CudaPlan::combine(const Napi::CallbackInfo &info) {
  Napi::Array keep = Napi::Array::New(info.Env());
  const Call call(Exchange::combine, objectArgument(info, 0), ranks_, keep);
  fusco_cuda_report report{};
  fusco_error error{};
  must(info.Env(), fusco_cuda_combine(open(info.Env()), &call.combine(), &report, &error), error);
  return reportObject(info.Env(), report);
}

Napi::Value CudaPlan::weightGradient(const Napi::CallbackInfo &info) {
  Napi::Array keep = Napi::Array::New(info.Env());
  const Call call(Exchange::weightGradient, objectArgument(info, 0), ranks_, keep);
  fusco_cuda_report report{};
  fusco_error error{};
  must(info.Env(), fusco_cuda_weight_gradient(open(info.Env()), &call.weightGradient(), &report, &error),
       error);
  return reportObject(info.Env(), report);
}

void CudaPlan::close(const Napi::CallbackInfo &) {
  fusco_cuda_plan_destroy(handle_);
  handle_ = nullptr;
}

Napi::Function CudaEvent::define(Napi::Env env) {
  return DefineClass(env, "CudaEvent",
                     {
                         InstanceMethod<&CudaEvent::record>("record"),
                         InstanceMethod<&CudaEvent::wait>("wait"),
                         InstanceMethod<&CudaEvent::query>("query"),
                         InstanceMethod<&CudaEvent::synchronize>("synchronize"),
                         InstanceMethod<&CudaEvent::since>("since"),
                         InstanceMethod<&CudaEvent::close>("close"),
                     });
}

CudaEvent::CudaEvent(const Napi::CallbackInfo &info) : Napi::ObjectWrap<CudaEvent>(info) {
  fusco_error error{};
  must(info.Env(), fusco_cuda_event_create(CudaContext::handleOf(info[0]), rankAt(info, 1), &handle_, &error),
       error);
  Value().TypeTag(&eventTag);
}

fusco_cuda_event *CudaEvent::open(Napi::Env env) const {
  if (handle_ == nullptr) refuse(env, FUSCO_E_CLOSED, "the event is closed");
  return handle_;
}

void CudaEvent::record(const Napi::CallbackInfo &info) {
  fusco_error error{};
  must(info.Env(), fusco_cuda_event_record(open(info.Env()), &error), error);
}

void CudaEvent::wait(const Napi::CallbackInfo &info) {
  fusco_error error{};
  must(info.Env(), fusco_cuda_event_wait(open(info.Env()), rankAt(info, 0), &error), error);
}

Napi::Value CudaEvent::query(const Napi::CallbackInfo &info) {
  int done = 0;
  fusco_error error{};
  must(info.Env(), fusco_cuda_event_query(open(info.Env()), &done, &error), error);
  return Napi::Boolean::New(info.Env(), done != 0);
}

void CudaEvent::synchronize(const Napi::CallbackInfo &info) {
  fusco_error error{};
  must(info.Env(), fusco_cuda_event_synchronize(open(info.Env()), &error), error);
}

Napi::Value CudaEvent::since(const Napi::CallbackInfo &info) {
  if (!info[0].IsObject() || !info[0].As<Napi::Object>().CheckTypeTag(&eventTag)) {
    refuse(info.Env(), FUSCO_E_OPTION, "the argument must be a CudaEvent");
  }
  fusco_cuda_event *start = Unwrap(info[0].As<Napi::Object>())->open(info.Env());
  double taken = 0;
  fusco_error error{};
  must(info.Env(), fusco_cuda_event_elapsed(start, open(info.Env()), &taken, &error), error);
  return Napi::Number::New(info.Env(), taken);
}

void CudaEvent::close(const Napi::CallbackInfo &) {
  fusco_cuda_event_destroy(handle_);
  handle_ = nullptr;
}

Napi::Function CudaGraph::define(Napi::Env env) {
  return DefineClass(
      env, "CudaGraph",
      {InstanceMethod<&CudaGraph::launch>("launch"), InstanceMethod<&CudaGraph::close>("close")});
}

CudaGraph::CudaGraph(const Napi::CallbackInfo &info) : Napi::ObjectWrap<CudaGraph>(info) {
  fusco_error error{};
  must(info.Env(), fusco_cuda_capture_end(CudaContext::handleOf(info[0]), &handle_, &error), error);
}

void CudaGraph::launch(const Napi::CallbackInfo &info) {
  if (handle_ == nullptr) refuse(info.Env(), FUSCO_E_CLOSED, "the graph is closed");
  fusco_error error{};
  must(info.Env(), fusco_cuda_graph_launch(handle_, &error), error);
}

void CudaGraph::close(const Napi::CallbackInfo &) {
  fusco_cuda_graph_destroy(handle_);
  handle_ = nullptr;
}

Napi::Function CudaUnfused::define(Napi::Env env) {
  return DefineClass(env, "CudaUnfused",
                     {
                         InstanceMethod<&CudaUnfused::dispatch>("dispatch"),
                         InstanceMethod<&CudaUnfused::combine>("combine"),
                         InstanceMethod<&CudaUnfused::close>("close"),
                     });
}

CudaUnfused::CudaUnfused(const Napi::CallbackInfo &info) : Napi::ObjectWrap<CudaUnfused>(info) {
  fusco_cuda_plan *plan = CudaPlan::handleOf(info[0]);
  ranks_ = CudaPlan::ranksOf(info[0]);
  const uint64_t rowBytes = integerField(objectArgument(info, 1), "rowBytes", 0, UINT32_MAX);
  fusco_error error{};
  must(info.Env(), fusco_cuda_unfused_create(plan, rowBytes, &handle_, &error), error);
}

fusco_cuda_unfused *CudaUnfused::open(Napi::Env env) const {
  if (handle_ == nullptr) refuse(env, FUSCO_E_CLOSED, "the pipeline is closed");
  return handle_;
}

void CudaUnfused::dispatch(const Napi::CallbackInfo &info) {
  Napi::Array keep = Napi::Array::New(info.Env());
  const std::vector<fusco_buffer> from = memoriesOf(info[0], "from", ranks_, keep);
  const std::vector<fusco_buffer> to = memoriesOf(info[1], "to", ranks_, keep);
  fusco_error error{};
  must(info.Env(), fusco_cuda_unfused_dispatch(open(info.Env()), from.data(), to.data(), &error), error);
}

void CudaUnfused::combine(const Napi::CallbackInfo &info) {
  Napi::Array keep = Napi::Array::New(info.Env());
  const Call call(Exchange::combine, objectArgument(info, 0), ranks_, keep);
  fusco_error error{};
  must(info.Env(), fusco_cuda_unfused_combine(open(info.Env()), &call.combine(), &error), error);
}

void CudaUnfused::close(const Napi::CallbackInfo &) {
  fusco_cuda_unfused_destroy(handle_);
  handle_ = nullptr;
}

}  // namespace fusco_node
