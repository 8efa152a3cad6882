#include "plan_file.hpp"

namespace fusco_node {

PlanFile::PlanFile(const Napi::CallbackInfo &info) : Handle(info) {
  const Napi::Env env = info.Env();
  if (info[0].IsString()) {
    make(env, fusco_plan_file_open, textOf(info[0], "the path").c_str());
    return;
  }
  Napi::Array keep = Napi::Array::New(env);
  const fusco_buffer bytes = memoryOf(info[0], "the file", 0, keep);
  make(env, fusco_plan_file_parse, static_cast<const void *>(bytes.data), bytes.bytes);
}

fusco_plan_file_info PlanFile::described(Napi::Env env) const {
  auto described = fusco_sized<fusco_plan_file_info>();
  run(env, fusco_plan_file_describe, open(env).get(), &described);
  return described;
}

Napi::Value PlanFile::planId(const Napi::CallbackInfo &info) {
  const fusco_plan_file_info file = described(info.Env());
  return bytesFor(info.Env(), file.plan_id, sizeof file.plan_id);
}

Napi::Value PlanFile::shard(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const auto rank = valueOf<uint32_t>(info[0], "rank");
  const fusco_plan_file_info file = described(env);
  if (rank >= file.options->ranks) refuse(env, FUSCO_E_OPTION, "there is no such rank");
  return bytesFor(env, file.shards[rank].data, file.shards[rank].bytes);
}

void PlanFile::checkRouting(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const uint32_t ranks = described(env).options->ranks;
  if (!info[0].IsArray() || info[0].As<Napi::Array>().Length() != ranks) {
    refuse(env, FUSCO_E_OPTION, "the routing must have one table per rank");
  }
  Napi::Array keep = Napi::Array::New(env);
  std::vector<fusco_ids> ids;
  for (uint32_t rank = 0; rank < ranks; rank++) {
    const Napi::Value table = info[0].As<Napi::Array>().Get(rank);
    ids.push_back(tableOf(Fields(table, "table " + std::to_string(rank), "", keep), rank));
  }
  run(env, fusco_plan_file_check_routing, open(env).get(), ids.data());
}

void PlanFile::write(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const std::string path = textOf(info[0], "the path");
  const std::string reason = textOf(info[1], "the reason");
  fusco_plan_file_info file = described(env);
  file.reason = reason.c_str();
  uint8_t *const noId = nullptr;
  const fusco_plan_file_info *given = &file;
  run(env, fusco_plan_file_write, path.c_str(), given, noId);
}

}  // namespace fusco_node
