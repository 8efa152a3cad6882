// The JavaScript class NcclGroup: a group of one process per rank, and the thread that makes all of its
// calls.
#pragma once

#include <cstdio>
#include <cstring>

#include "cuda_context.hpp"
#include "fusco_nccl.h"
#include "worker.hpp"

namespace fusco_node {

// The native group, shared with the tasks and plans that use it. The first task sets `handle`.
struct NcclState {
  NcclState(Napi::Env env, uint32_t groupRanks)
      : worker(std::make_shared<Worker>(env, "fusco.nccl")), ranks(groupRanks) {
    worker->whenStopping([this] { abort("the process ends"); });
  }
  ~NcclState() {
    worker->stop();
    fusco_nccl_group_destroy(handle);
  }
  NcclState(const NcclState &) = delete;
  NcclState &operator=(const NcclState &) = delete;

  // From any thread, also before the group is made.
  void abort(const std::string &why) {
    const std::lock_guard<std::mutex> lock(mutex);
    aborted = true;
    abortedWhy = why;
    fusco_nccl_abort(handle, why.c_str());
  }

  std::shared_ptr<Worker> worker;
  uint32_t ranks;
  fusco_nccl_group *handle = nullptr;
  // What abort() said before the group was made.
  std::mutex mutex;
  std::string abortedWhy;
  bool aborted = false;
};

// The error of a task, without a call of the C interface.
inline fusco_status fail(fusco_error *error, fusco_status status, const char *message) {
  *error = {};
  error->status = status;
  error->rank = -1;
  std::snprintf(error->message, sizeof error->message, "%s", message);
  return status;
}

inline fusco_status notOpen(fusco_error *error) {
  return fail(error, FUSCO_E_CLOSED, "the group or the plan is not open");
}

// The number of a collective call and the digest of its arguments: the first two arguments.
inline fusco_nccl_call callNumberOf(const Napi::CallbackInfo &info) {
  fusco_nccl_call call = fusco_sized<fusco_nccl_call>();
  call.number = valueOf<uint64_t>(info[0], "the number");
  call.digest = wordOf(info[1], "the digest");
  return call;
}

// close() of a class whose calls are tasks: takes the state from the object, and frees it with a task, after
// what is in flight. The promise of an object that is closed resolves at once.
template <class State, class Free>
Napi::Value closeLater(const Napi::CallbackInfo &info, std::shared_ptr<State> &held, Worker *worker,
                       Free free) {
  if (held == nullptr) {
    const auto deferred = Napi::Promise::Deferred::New(info.Env());
    deferred.Resolve(info.Env().Undefined());
    return deferred.Promise();
  }
  const auto work = [state = std::exchange(held, nullptr), free](fusco_error *) {
    free(*state);
    return FUSCO_OK;
  };
  return worker->submit(work, nullptr, Napi::Array::New(info.Env()));
}

class NcclGroup : public Handle<NcclGroup, std::shared_ptr<NcclState>> {
 public:
  static constexpr char name[] = "NcclGroup";
  static constexpr char label[] = "the group";

  // (cudaContext, {ranks, rank, machines: Uint32Array, mailbox, id: Uint8Array, maxCtas, roundBytes,
  // deadlineMs})
  explicit NcclGroup(const Napi::CallbackInfo &info) : Handle(info) {
    const Fields fields(info, 1, Napi::Array::New(info.Env()));
    desc_.ranks = fields.get<uint32_t>("ranks");
    desc_.rank = fields.get<uint32_t>("rank");
    desc_.max_ctas = fields.get<uint32_t>("maxCtas");
    desc_.round_bytes = fields.integer("roundBytes", uint64_t{1} << 40);
    desc_.deadline_ns = fields.integer("deadlineMs", 1u << 30, 60000) * 1000000;
    mailbox_ = fields.get<std::string>("mailbox");
    if (!mailbox_.empty()) desc_.mailbox = mailbox_.c_str();
    machines_ = fields.elements<uint32_t>("machines", desc_.ranks);
    desc_.machines = machines_.data();
    const auto id = fields.elements<uint8_t>("id", FUSCO_NCCL_ID_BYTES);
    std::memcpy(desc_.id, id.data(), sizeof desc_.id);
    desc_.context = CudaContext::nativeOf(info[0]);
    context_ = Napi::Persistent(info[0].As<Napi::Object>());
    handle_ = std::make_shared<NcclState>(info.Env(), desc_.ranks);
  }

  // () -> Promise: makes the group; collective.
  Napi::Value open(const Napi::CallbackInfo &info) {
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
  // (number, digest, own: Uint8Array) -> Promise<Uint8Array>, [ranks, bytes]
  Napi::Value allGather(const Napi::CallbackInfo &info) {
    const std::shared_ptr<NcclState> state = Handle::open(info.Env());
    const fusco_nccl_call number = callNumberOf(info);
    Napi::Array keep = Napi::Array::New(info.Env());
    const fusco_buffer own = memoryOf(info[2], "the contribution", 0, keep);
    Napi::Uint8Array all = Napi::Uint8Array::New(info.Env(), own.bytes * state->ranks);
    uint8_t *to = all.Data();
    const auto reference = std::make_shared<Napi::Reference<Napi::Uint8Array>>(Napi::Persistent(all));
    const auto work = [=](fusco_error *error) {
      if (state->handle == nullptr) return notOpen(error);
      return fusco_nccl_all_gather(state->handle, &number, own.data, to, own.bytes, error);
    };
    return state->worker->submit(
        work, [=](Napi::Env) { return reference->Value(); }, keep);
  }
  // (buffers) -> Promise: maps them into the other ranks of this machine, or lets them unmap them.
  template <auto function>
  Napi::Value share(const Napi::CallbackInfo &info) {
    const std::shared_ptr<NcclState> state = Handle::open(info.Env());
    Napi::Array keep = Napi::Array::New(info.Env());
    const auto buffers = std::make_shared<std::vector<fusco_buffer>>();
    const uint32_t count = info[0].IsArray() ? info[0].As<Napi::Array>().Length() : 0;
    *buffers = memoriesOf(info[0], "buffers", count, keep);
    const auto work = [=](fusco_error *error) {
      if (state->handle == nullptr) return notOpen(error);
      return function(state->handle, buffers->data(), static_cast<uint32_t>(buffers->size()), error);
    };
    return state->worker->submit(work, nullptr, keep);
  }
  // () -> Promise: rejects with what kernels have recorded until now.
  Napi::Value check(const Napi::CallbackInfo &info) {
    const std::shared_ptr<NcclState> state = Handle::open(info.Env());
    const auto work = [=](fusco_error *error) {
      return state->handle == nullptr ? notOpen(error) : fusco_nccl_check(state->handle, error);
    };
    return state->worker->submit(work, nullptr, Napi::Array::New(info.Env()));
  }
  // (why)
  void abort(const Napi::CallbackInfo &info) {
    if (handle_ != nullptr) handle_->abort(info[0].IsUndefined() ? "aborted" : textOf(info[0], "why"));
  }
  // () -> Promise
  Napi::Value close(const Napi::CallbackInfo &info) {
    Worker *worker = handle_ == nullptr ? nullptr : handle_->worker.get();
    return closeLater(info, handle_, worker, [](NcclState &state) {
      fusco_nccl_group *handle = nullptr;
      {
        const std::lock_guard<std::mutex> lock(state.mutex);
        std::swap(handle, state.handle);
      }
      fusco_nccl_group_destroy(handle);
    });
  }

 private:
  // What open() needs; the context's object stays referenced.
  Napi::ObjectReference context_;
  std::vector<uint32_t> machines_;
  std::string mailbox_;
  fusco_nccl_group_desc desc_ = fusco_sized<fusco_nccl_group_desc>();
};

// (path?) -> {path, version} or {reason}
inline Napi::Value ncclLibrary(const Napi::CallbackInfo &info) {
  Napi::Object result = Napi::Object::New(info.Env());
  const std::string path = info[0].IsUndefined() ? "" : textOf(info[0], "path");
  fusco_nccl_library library = fusco_sized<fusco_nccl_library>();
  fusco_error error{};
  if (fusco_nccl_open(path.empty() ? nullptr : path.c_str(), &library, &error) != FUSCO_OK) {
    result.Set("reason", std::string(error.message));
    return result;
  }
  result.Set("path", std::string(library.path));
  result.Set("version", library.version);
  return result;
}

// () -> Uint8Array(128)
inline Napi::Value ncclUniqueId(const Napi::CallbackInfo &info) {
  Napi::Uint8Array id = Napi::Uint8Array::New(info.Env(), FUSCO_NCCL_ID_BYTES);
  run(info.Env(), fusco_nccl_unique_id, id.Data());
  return id;
}

}  // namespace fusco_node
