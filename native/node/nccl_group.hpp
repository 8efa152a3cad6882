// The JavaScript class NcclGroup: a group of one process per rank, and the thread that makes all of its
// calls.
#pragma once

#include "cuda_context.hpp"
#include "fusco_nccl.h"
#include "worker.hpp"

namespace fusco_node {

// (path?) -> {path, version} or {reason}
Napi::Value ncclLibrary(const Napi::CallbackInfo &info);
// () -> Uint8Array(128)
Napi::Value ncclUniqueId(const Napi::CallbackInfo &info);

// The number of a collective call and the digest of its arguments, from the first two arguments.
fusco_nccl_step callNumberOf(const Napi::CallbackInfo &info);

// The native group, shared with the tasks and plans that use it. The first task sets `handle`.
struct NcclState {
  NcclState(Napi::Env env, uint32_t groupRanks);
  ~NcclState();
  NcclState(const NcclState &) = delete;
  NcclState &operator=(const NcclState &) = delete;

  // From any thread, also before the group is made.
  void abort(const std::string &why);

  std::shared_ptr<Worker> worker;
  uint32_t ranks;
  fusco_nccl_group *handle = nullptr;
  // What abort() said before the group was made.
  std::mutex mutex;
  std::string abortedWhy;
  bool aborted = false;
};

// Failures of tasks: with this status; E_CLOSED for one that finds its group or plan not open.
fusco_status fail(fusco_error *error, fusco_status status, const char *message);
fusco_status notOpen(fusco_error *error);
// A promise of undefined, for close() of what is closed.
Napi::Value resolved(Napi::Env env);

class NcclGroup : public Handle<NcclGroup, std::shared_ptr<NcclState>> {
 public:
  static constexpr char name[] = "NcclGroup";
  static constexpr char label[] = "the group";

  // (cudaContext, {ranks, rank, machines: Uint32Array, mailbox, id: Uint8Array, maxCtas, roundBytes,
  // deadlineMs})
  explicit NcclGroup(const Napi::CallbackInfo &info);

  // () -> Promise: makes the group; collective.
  Napi::Value open(const Napi::CallbackInfo &info);
  // (number, digest, own: Uint8Array) -> Promise<Uint8Array>, [ranks, bytes]
  Napi::Value allGather(const Napi::CallbackInfo &info);
  // (why)
  void abort(const Napi::CallbackInfo &info);
  // () -> Promise: what is in flight settles first.
  Napi::Value close(const Napi::CallbackInfo &info);

 private:
  // What open() needs; the context's object stays referenced.
  Napi::ObjectReference context_;
  std::vector<uint32_t> machines_;
  std::string mailbox_;
  fusco_nccl_group_desc desc_{};
};

}  // namespace fusco_node
