// The JavaScript classes of the CUDA part: thin objects over the handles of fusco_cuda.h. Nothing here waits
// for the GPU but what the C interface says waits.
#pragma once

#include "calls.hpp"
#include "fusco_cuda.h"
#include "fusco_cuda_bench.h"

namespace fusco_node {

// Throws the error of a call that failed.
void must(Napi::Env env, fusco_status status, const fusco_error &error);
// A rank among the arguments; one beyond 32 bits becomes the largest, which no group has.
uint32_t rankAt(const Napi::CallbackInfo &info, size_t index);

// () -> {built, devices: [...], reason?}
Napi::Value cudaDevices(const Napi::CallbackInfo &info);

class CudaContext : public Napi::ObjectWrap<CudaContext> {
 public:
  static Napi::Function define(Napi::Env env);

  // (ranks, devices?)
  explicit CudaContext(const Napi::CallbackInfo &info);
  ~CudaContext() override { fusco_cuda_context_destroy(handle_); }

  // The open handle of `value`. Throws E_OPTION for another object and E_CLOSED after close().
  static fusco_cuda_context *handleOf(const Napi::Value &value);

 private:
  fusco_cuda_context *open(Napi::Env env) const;

  Napi::Value alloc(const Napi::CallbackInfo &info);
  void free(const Napi::CallbackInfo &info);
  void copy(const Napi::CallbackInfo &info);
  void fill(const Napi::CallbackInfo &info);
  Napi::Value stream(const Napi::CallbackInfo &info);
  void setStream(const Napi::CallbackInfo &info);
  void limitMultiprocessors(const Napi::CallbackInfo &info);
  void spin(const Napi::CallbackInfo &info);
  void synchronize(const Napi::CallbackInfo &info);
  void captureBegin(const Napi::CallbackInfo &info);
  void close(const Napi::CallbackInfo &info);

  fusco_cuda_context *handle_ = nullptr;
};

class CudaPlan : public Napi::ObjectWrap<CudaPlan> {
 public:
  static Napi::Function define(Napi::Env env);

  // (context, {ranksPerNode, strategy, partial, groups?, shards, capacity?})
  explicit CudaPlan(const Napi::CallbackInfo &info);
  ~CudaPlan() override { fusco_cuda_plan_destroy(handle_); }

  static fusco_cuda_plan *handleOf(const Napi::Value &value);
  static uint32_t ranksOf(const Napi::Value &value);

 private:
  fusco_cuda_plan *open(Napi::Env env) const;

  Napi::Value bytes(const Napi::CallbackInfo &info);
  void upload(const Napi::CallbackInfo &info);
  Napi::Value dispatch(const Napi::CallbackInfo &info);
  Napi::Value combine(const Napi::CallbackInfo &info);
  Napi::Value weightGradient(const Napi::CallbackInfo &info);
  void close(const Napi::CallbackInfo &info);

  fusco_cuda_plan *handle_ = nullptr;
  uint32_t ranks_ = 0;
};

class CudaEvent : public Napi::ObjectWrap<CudaEvent> {
 public:
  static Napi::Function define(Napi::Env env);

  // (context, rank)
  explicit CudaEvent(const Napi::CallbackInfo &info);
  ~CudaEvent() override { fusco_cuda_event_destroy(handle_); }

 private:
  fusco_cuda_event *open(Napi::Env env) const;

  void record(const Napi::CallbackInfo &info);
  void wait(const Napi::CallbackInfo &info);
  Napi::Value query(const Napi::CallbackInfo &info);
  void synchronize(const Napi::CallbackInfo &info);
  Napi::Value since(const Napi::CallbackInfo &info);
  void close(const Napi::CallbackInfo &info);

  fusco_cuda_event *handle_ = nullptr;
};

class CudaGraph : public Napi::ObjectWrap<CudaGraph> {
 public:
  static Napi::Function define(Napi::Env env);

  // (context): ends its capture.
  explicit CudaGraph(const Napi::CallbackInfo &info);
  ~CudaGraph() override { fusco_cuda_graph_destroy(handle_); }

 private:
  void launch(const Napi::CallbackInfo &info);
  void close(const Napi::CallbackInfo &info);

  fusco_cuda_graph *handle_ = nullptr;
};

class CudaUnfused : public Napi::ObjectWrap<CudaUnfused> {
 public:
  static Napi::Function define(Napi::Env env);

  // (plan, {rowBytes})
  explicit CudaUnfused(const Napi::CallbackInfo &info);
  ~CudaUnfused() override { fusco_cuda_unfused_destroy(handle_); }

 private:
  fusco_cuda_unfused *open(Napi::Env env) const;

  void dispatch(const Napi::CallbackInfo &info);
  void combine(const Napi::CallbackInfo &info);
  void close(const Napi::CallbackInfo &info);

  fusco_cuda_unfused *handle_ = nullptr;
  uint32_t ranks_ = 0;
};

}  // namespace fusco_node
