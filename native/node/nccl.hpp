// The JavaScript classes of the NCCL part: a group with the thread that makes all of its calls, and its
// plans.
#pragma once

#include "calls.hpp"
#include "fusco_nccl.h"
#include "fusco_nccl_bench.h"
#include "worker.hpp"

namespace fusco_node {

// (path?) -> {path, version} or {reason}
Napi::Value ncclLibrary(const Napi::CallbackInfo &info);
// () -> Uint8Array(128)
Napi::Value ncclUniqueId(const Napi::CallbackInfo &info);

// The native group, shared with the tasks and plans that use it. `handle` is set by the first task.
struct NcclState {
  NcclState(Napi::Env env, uint32_t groupRanks);
  ~NcclState();

  // From any thread, also before the group is made.
  void abort(const std::string &why);

  std::shared_ptr<Worker> worker;
  uint32_t ranks;
  fusco_nccl_group *handle = nullptr;
  // A group that was aborted before it was made.
  std::mutex mutex;
  std::string abortedWhy;
  bool aborted = false;
};

class NcclGroup : public Napi::ObjectWrap<NcclGroup> {
 public:
  static Napi::Function define(Napi::Env env);

  // (cudaContext, {ranks, rank, hosts: Uint32Array, board, id: Uint8Array, maxCtas, deadlineMs})
  explicit NcclGroup(const Napi::CallbackInfo &info);

  static std::shared_ptr<NcclState> stateOf(const Napi::Value &value);

 private:
  // () -> Promise: makes the group; collective.
  Napi::Value open(const Napi::CallbackInfo &info);
  // (step, digest, own: Uint8Array) -> Promise<Uint8Array>, [ranks, bytes]
  Napi::Value allGather(const Napi::CallbackInfo &info);
  void abort(const Napi::CallbackInfo &info);
  // () -> Promise: what is in flight settles first.
  Napi::Value close(const Napi::CallbackInfo &info);
  std::shared_ptr<NcclState> live(Napi::Env env) const;

  std::shared_ptr<NcclState> state_;
  // What open() needs; the context's object stays referenced.
  Napi::ObjectReference context_;
  std::vector<uint32_t> hosts_;
  std::string board_;
  fusco_nccl_group_desc desc_{};
};

// A plan of a group, shared with the tasks that use it.
struct NcclPlanState {
  explicit NcclPlanState(std::shared_ptr<NcclState> owner) : group(std::move(owner)) {}
  std::shared_ptr<NcclState> group;
  fusco_nccl_plan *handle = nullptr;
  fusco_nccl_unfused *unfused = nullptr;
};

class NcclPlan : public Napi::ObjectWrap<NcclPlan> {
 public:
  static Napi::Function define(Napi::Env env);

  // (group, {shard, ranksPerNode, strategy, partial, groups?, firstInstance, sliceRows})
  explicit NcclPlan(const Napi::CallbackInfo &info);

 private:
  // (step, digest) -> Promise; collective.
  Napi::Value open(const Napi::CallbackInfo &info);
  // (rowBytes) -> {tables, dispatch, combine}
  Napi::Value bytes(const Napi::CallbackInfo &info);
  // (step, digest, call, detailed) -> Promise<report>
  Napi::Value dispatch(const Napi::CallbackInfo &info);
  Napi::Value combine(const Napi::CallbackInfo &info);
  Napi::Value weightGradient(const Napi::CallbackInfo &info);
  // (step, digest, call, rowBytes): the unfused pipeline, for benches.
  Napi::Value unfusedDispatch(const Napi::CallbackInfo &info);
  Napi::Value unfusedCombine(const Napi::CallbackInfo &info);
  // () -> Promise
  Napi::Value close(const Napi::CallbackInfo &info);
  Napi::Value exchange(const Napi::CallbackInfo &info, Exchange kind);
  Napi::Value unfused(const Napi::CallbackInfo &info, Exchange kind);
  std::shared_ptr<NcclPlanState> live(Napi::Env env) const;

  std::shared_ptr<NcclPlanState> state_;
  Napi::Reference<Napi::Array> keep_;
  std::vector<uint16_t> groups_;
  std::vector<uint32_t> firstInstance_;
  fusco_nccl_plan_desc desc_{};
};

}  // namespace fusco_node
