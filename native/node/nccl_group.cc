#include "nccl_group.hpp"

#include <cstdio>
#include <cstring>

namespace fusco_node {

Napi::Value ncclLibrary(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  Napi::Object result = Napi::Object::New(env);
  const std::string path = info[0].IsUndefined() ? "" : textOf(info[0], "path");
  fusco_nccl_library library{};
  fusco_error error{};
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
  check(info.Env(), fusco_nccl_unique_id(id.Data(), &error), error);
  return id;
}

fusco_nccl_step callNumberOf(const Napi::CallbackInfo &info) {
  return {valueOf<uint64_t>(info[0], "the number"), wordOf(info[1], "the digest")};
}

fusco_status fail(fusco_error *error, fusco_status status, const char *message) {
  *error = {};
  error->status = status;
  error->rank = -1;
  std::snprintf(error->message, sizeof error->message, "%s", message);
  return status;
}

fusco_status notOpen(fusco_error *error) {
  return fail(error, FUSCO_E_CLOSED, "the group or the plan is not open");
}

Napi::Value resolved(Napi::Env env) {
  const auto deferred = Napi::Promise::Deferred::New(env);
  deferred.Resolve(env.Undefined());
  return deferred.Promise();
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

NcclGroup::NcclGroup(const Napi::CallbackInfo &info) : Handle(info) {
  const Fields fields(info, 1, Napi::Array::New(info.Env()));
  desc_.ranks = fields.get<uint32_t>("ranks");
  desc_.rank = fields.get<uint32_t>("rank");
  desc_.max_ctas = fields.get<uint32_t>("maxCtas");
  desc_.step_bytes = fields.integer("roundBytes", uint64_t{1} << 40);
  desc_.deadline_ns = fields.integer("deadlineMs", 1u << 30, 60000) * 1000000;
  mailbox_ = fields.get<std::string>("mailbox");
  if (!mailbox_.empty()) desc_.board = mailbox_.c_str();
  machines_ = fields.elements<uint32_t>("machines", desc_.ranks);
  desc_.hosts = machines_.data();
  const auto id = fields.elements<uint8_t>("id", FUSCO_NCCL_ID_BYTES);
  std::memcpy(desc_.id, id.data(), sizeof desc_.id);
  desc_.context = CudaContext::nativeOf(info[0]);
  context_ = Napi::Persistent(info[0].As<Napi::Object>());
  handle_ = std::make_shared<NcclState>(info.Env(), desc_.ranks);
}

Napi::Value NcclGroup::open(const Napi::CallbackInfo &info) {
  const std::shared_ptr<NcclState> state = Handle::open(info.Env());
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
  return state->worker->submit(work, nullptr, keep);
}

Napi::Value NcclGroup::allGather(const Napi::CallbackInfo &info) {
  const std::shared_ptr<NcclState> state = Handle::open(info.Env());
  const fusco_nccl_step number = callNumberOf(info);
  Napi::Array keep = Napi::Array::New(info.Env());
  const fusco_buffer own = memoryOf(info[2], "the contribution", 0, keep);
  Napi::Uint8Array all = Napi::Uint8Array::New(info.Env(), own.bytes * state->ranks);
  uint8_t *to = all.Data();
  const auto reference = std::make_shared<Napi::Reference<Napi::Uint8Array>>(Napi::Persistent(all));
  return state->worker->submit(
      [=](fusco_error *error) {
        if (state->handle == nullptr) return notOpen(error);
        return fusco_nccl_all_gather(state->handle, &number, own.data, to, own.bytes, error);
      },
      [=](Napi::Env) -> Napi::Value { return reference->Value(); }, keep);
}

void NcclGroup::abort(const Napi::CallbackInfo &info) {
  if (handle_ == nullptr) return;
  handle_->abort(info[0].IsUndefined() ? "aborted" : textOf(info[0], "why"));
}

Napi::Value NcclGroup::close(const Napi::CallbackInfo &info) {
  if (handle_ == nullptr) return resolved(info.Env());
  const std::shared_ptr<NcclState> state = std::move(handle_);
  const auto work = [state](fusco_error *) {
    fusco_nccl_group *handle = nullptr;
    {
      const std::lock_guard<std::mutex> lock(state->mutex);
      std::swap(handle, state->handle);
    }
    fusco_nccl_group_destroy(handle);
    return FUSCO_OK;
  };
  return state->worker->submit(work, nullptr, Napi::Array::New(info.Env()));
}

}  // namespace fusco_node
