#include "device_planner.hpp"

namespace fusco_node {

std::vector<fusco_ids> idsOf(const Napi::Value &list, uint32_t ranks, const Napi::Array &keep) {
  const Napi::Env env = list.Env();
  if (!list.IsArray() || list.As<Napi::Array>().Length() != ranks) {
    refuse(env, FUSCO_E_OPTION, "ids must be an array with one element per rank");
  }
  std::vector<fusco_ids> all;
  for (uint32_t rank = 0; rank < ranks; rank++) {
    const Fields fields(list.As<Napi::Array>().Get(rank), "ids of rank " + std::to_string(rank), "", keep);
    fusco_ids ids = fusco_sized<fusco_ids>();
    ids.dtype = fields.choice<fusco_id_dtype>("dtype",
                                              {{"i32", FUSCO_ID_I32},
                                               {"i64", FUSCO_ID_I64},
                                               {"i16", FUSCO_ID_I16},
                                               {"u16", FUSCO_ID_U16},
                                               {"i8", FUSCO_ID_I8},
                                               {"u8", FUSCO_ID_U8},
                                               {"u32", FUSCO_ID_U32},
                                               {"u64", FUSCO_ID_U64}},
                                              FUSCO_E_ROUTING_DTYPE);
    ids.tokens = fields.get<uint32_t>("tokens");
    ids.topk = fields.get<uint32_t>("topk");
    const fusco_buffer memory = fields.memory("ids", rank);
    // A dtype's name ends with its bits.
    const std::string name = fields.has("dtype") ? fields.get<std::string>("dtype") : "i32";
    const uint64_t needed = uint64_t{ids.tokens} * ids.topk * std::stoul(name.substr(1)) / 8;
    if (memory.bytes < needed) {
      refuse(env, FUSCO_E_BUFFER, "the ids of rank " + std::to_string(rank) + " have too few bytes",
             static_cast<int32_t>(rank));
    }
    ids.data = memory.data;
    all.push_back(ids);
  }
  return all;
}

Napi::Value viewFor(Napi::Env env, const fusco_cuda_plan_view &view) {
  Napi::Object described = Napi::Object::New(env);
  setNumbers(described, {{"localInstances", view.local_instances}});
  const auto address = [&](const char *of, const uint32_t *at) {
    described.Set(of, valueFor(env, const_cast<void *>(static_cast<const void *>(at))));
  };
  address("expertCounts", view.expert_counts);
  address("expertOffsets", view.expert_offsets);
  address("recvRows", view.recv_rows);
  address("overflowRows", view.overflow_rows);
  return described;
}

fusco_cuda_plan_limits limitsOf(const Fields &fields) {
  fusco_cuda_plan_limits limits = fusco_sized<fusco_cuda_plan_limits>();
  limits.max_tokens = fields.get<uint32_t>("maxTokens");
  limits.max_recv_rows = fields.get<uint32_t>("maxRecvRows");
  return limits;
}

DevicePlanner::DevicePlanner(const Napi::CallbackInfo &info) : Handle(info) {
  const Napi::Array keep = Napi::Array::New(info.Env());
  const PlannerOptions options(Fields(info, 1, keep));
  const fusco_cuda_plan_limits limits = limitsOf(Fields(info, 2, keep));
  const fusco_plan_options *given = options.get();
  const fusco_cuda_plan_limits *sizes = &limits;
  make(info.Env(), fusco_cuda_planner_create, CudaContext::nativeOf(info[0]), given, sizes);
  run(info.Env(), fusco_cuda_plan_buffer_bytes, given, sizes, &bufferBytes_);
  ranks_ = given->ranks;
}

Napi::Value DevicePlanner::bufferBytes(const Napi::CallbackInfo &info) {
  return valueFor(info.Env(), bufferBytes_);
}

BufferedPlan::BufferedPlan(const Napi::CallbackInfo &info) : Handle(info) {
  const Napi::Env env = info.Env();
  Napi::Array keep = Napi::Array::New(env);
  const uint32_t ranks = DevicePlanner::objectOf(info[0]).ranks();
  ranks_ = ranks;
  const std::vector<fusco_buffer> buffers = memoriesOf(info[1], "buffers", ranks, keep);
  if (info[2].IsUndefined()) {
    make(env, fusco_cuda_plan_attach, DevicePlanner::nativeOf(info[0]), buffers.data());
    return;
  }
  const std::vector<fusco_ids> ids = idsOf(info[2], ranks, keep);
  fusco_cuda_plan_call call = fusco_sized<fusco_cuda_plan_call>();
  call.ids = ids.data();
  call.buffers = buffers.data();
  const fusco_cuda_plan_call *given = &call;
  make(env, fusco_cuda_plan_on_device, DevicePlanner::nativeOf(info[0]), given);
}

Napi::Value BufferedPlan::describe(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const auto rank = valueOf<uint32_t>(info[0], "rank");
  fusco_cuda_plan_view view = fusco_sized<fusco_cuda_plan_view>();
  run(env, fusco_cuda_plan_describe, open(env).get(), rank, &view);
  return viewFor(env, view);
}

Napi::Value BufferedPlan::recvRows(const Napi::CallbackInfo &info) {
  uint32_t rows = 0;
  run(info.Env(), fusco_cuda_plan_status, open(info.Env()).get(), valueOf<uint32_t>(info[0], "rank"), &rows);
  return valueFor(info.Env(), rows);
}

Napi::Value BufferedPlan::shard(const Napi::CallbackInfo &info) {
  const auto rank = valueOf<uint32_t>(info[0], "rank");
  fusco_cuda_plan *plan = open(info.Env()).get();
  return shardOf(info.Env(),
                 [&](fusco_buffer *shard) { run(info.Env(), fusco_cuda_plan_shard, plan, rank, shard); });
}

Napi::Value BufferedPlan::dispatch(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  Reading reading{Napi::Array::New(env)};
  const Argument<fusco_cuda_path> path(info[0], "path", reading);
  const Call<fusco_dispatch_call> call(Fields(info, 1, reading.keep), ranks_);
  fusco_cuda_report report = fusco_sized<fusco_cuda_report>();
  run(env, fusco_cuda_dispatch, open(env).get(), path.get(), call.get(), &report);
  return valueFor(env, report);
}

}  // namespace fusco_node
