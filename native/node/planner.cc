#include "planner.hpp"

#include <cstring>

namespace fusco_node {

namespace {

constexpr Choices<fusco_dtype> dtypes = {{"bytes", FUSCO_DTYPE_BYTES},
                                         {"f32", FUSCO_DTYPE_F32},
                                         {"f16", FUSCO_DTYPE_F16},
                                         {"bf16", FUSCO_DTYPE_BF16},
                                         {"fp8", FUSCO_DTYPE_FP8}};

fusco_id_dtype idDtypeOf(const Napi::Value &ids, uint32_t rank) {
  if (ids.IsTypedArray()) {
    switch (ids.As<Napi::TypedArray>().TypedArrayType()) {
      case napi_int8_array:
        return FUSCO_ID_I8;
      case napi_uint8_array:
        return FUSCO_ID_U8;
      case napi_int16_array:
        return FUSCO_ID_I16;
      case napi_uint16_array:
        return FUSCO_ID_U16;
      case napi_int32_array:
        return FUSCO_ID_I32;
      case napi_uint32_array:
        return FUSCO_ID_U32;
      case napi_bigint64_array:
        return FUSCO_ID_I64;
      case napi_biguint64_array:
        return FUSCO_ID_U64;
      default:
        break;
    }
  }
  refuse(ids.Env(), FUSCO_E_ROUTING_DTYPE, "rank " + std::to_string(rank) + ": ids are not integers",
         static_cast<int32_t>(rank));
}

fusco_ids idsOf(const Napi::CallbackInfo &info, uint32_t rank) {
  return tableOf(Fields(info, 1, Napi::Array::New(info.Env())), rank);
}

uint32_t rankOf(const Napi::CallbackInfo &info) { return valueOf<uint32_t>(info[0], "argument 0"); }

const char *balanceName(fusco_balance rule) {
  switch (rule) {
    case FUSCO_BALANCE_STATIC:
      return "static";
    case FUSCO_BALANCE_ROTATE:
      return "rotate";
    case FUSCO_BALANCE_LPT:
      return "lpt";
    default:
      return "none";
  }
}

}  // namespace

fusco_ids tableOf(const Fields &fields, uint32_t rank) {
  fusco_ids ids = fusco_sized<fusco_ids>();
  ids.dtype = idDtypeOf(fields.at("ids"), rank);
  ids.tokens = fields.get<uint32_t>("tokens");
  ids.topk = fields.get<uint32_t>("topk");
  ids.data = fields.memory("ids", rank).data;
  const uint64_t found = fields.at("ids").As<Napi::TypedArray>().ElementLength();
  if (found != uint64_t{ids.tokens} * ids.topk) {
    refuse(fields.env(), FUSCO_E_ROUTING_SHAPE,
           "rank " + std::to_string(rank) + ": " + std::to_string(found) + " ids for " +
               std::to_string(ids.tokens) + " tokens x topk " + std::to_string(ids.topk),
           static_cast<int32_t>(rank));
  }
  return ids;
}

Napi::Value bytesFor(Napi::Env env, const void *data, size_t bytes) {
  auto copy = Napi::Uint8Array::New(env, bytes);
  if (bytes > 0) std::memcpy(copy.Data(), data, bytes);
  return copy;
}

PlannerOptions::PlannerOptions(const Fields &fields) {
  options_.experts = fields.get<uint32_t>("experts");
  options_.ranks = fields.get<uint32_t>("ranks");
  options_.ranks_per_node = fields.get<uint32_t>("ranksPerNode");
  options_.topk = fields.get<uint32_t>("topk");
  options_.hidden = fields.get<uint32_t>("hidden");
  options_.dtype = fields.choice<fusco_dtype>("dtype", dtypes);
  options_.combine_dtype = fields.choice<fusco_dtype>("combineDtype", dtypes);
  options_.align = fields.get<uint32_t>("align");
  options_.capacity = fields.get<uint32_t>("capacity");
  options_.strategy = fields.choice<fusco_strategy>(
      "strategy",
      {{"flat", FUSCO_STRATEGY_FLAT}, {"hier", FUSCO_STRATEGY_HIER}, {"auto", FUSCO_STRATEGY_AUTO}});
  options_.balance = fields.choice<fusco_balance>("balance", {{"best", FUSCO_BALANCE_BEST},
                                                              {"static", FUSCO_BALANCE_STATIC},
                                                              {"rotate", FUSCO_BALANCE_ROTATE},
                                                              {"lpt", FUSCO_BALANCE_LPT}});
  options_.partial = fields.choice<fusco_partial>(
      "partial", {{"payload", FUSCO_PARTIAL_PAYLOAD}, {"f32", FUSCO_PARTIAL_F32}});
  options_.sum = fields.choice<fusco_sum>("sum", {{"node", FUSCO_SUM_NODE}, {"token", FUSCO_SUM_TOKEN}});
  options_.replicas = fields.choice<fusco_replicas>(
      "replicas", {{"quota-1", FUSCO_REPLICAS_QUOTA_1}, {"local", FUSCO_REPLICAS_LOCAL}});
  options_.slice_rows = fields.get<uint32_t>("sliceRows");
  options_.tile_tokens = fields.get<uint32_t>("tileTokens");
  options_.max_rows = fields.get<uint32_t>("maxRows");
  options_.ranks_per_host = fields.get<uint32_t>("ranksPerHost");
  if (!fields.has("placementOffsets")) return;
  offsets_ = fields.elements<uint32_t>("placementOffsets", uint64_t{options_.experts} + 1);
  ranks_ = fields.elements<uint16_t>("placementRanks", offsets_.back());
  options_.placement_offsets = offsets_.data();
  options_.placement_ranks = ranks_.data();
}

Planner::Planner(const Napi::CallbackInfo &info) : Handle(info) {
  const PlannerOptions options(Fields(info, 0, Napi::Array::New(info.Env())));
  make(info.Env(), fusco_planner_create, options.get());
  run(info.Env(), fusco_planner_describe, handle_.get(), &info_);
  ranks_ = options.get()->ranks;
}

Planner::Facts Planner::factsOf(const Napi::Value &counts, const Napi::Value &second) const {
  Facts facts;
  facts.counts = elementsOf<uint32_t>(counts, "the counts", uint64_t{ranks_} * info_.counts);
  if (!second.IsUndefined()) {
    facts.second = elementsOf<uint32_t>(second, "the second counts", uint64_t{ranks_} * info_.second_counts);
  }
  return facts;
}

Napi::Value Planner::describe(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  open(env);
  Napi::Object described = Napi::Object::New(env);
  setNumbers(
      described,
      {{"instances", info_.instances}, {"counts", info_.counts}, {"secondCounts", info_.second_counts}});
  described.Set("optionsDigest", bytesFor(env, info_.options_digest, sizeof info_.options_digest));
  return described;
}

Napi::Value Planner::count(const Napi::CallbackInfo &info) {
  const uint32_t rank = rankOf(info);
  const fusco_ids ids = idsOf(info, rank);
  auto counts = Napi::Uint32Array::New(info.Env(), info_.counts);
  run(info.Env(), fusco_planner_count, open(info.Env()).get(), rank, &ids, counts.Data());
  return counts;
}

Napi::Value Planner::countAgain(const Napi::CallbackInfo &info) {
  const uint32_t rank = rankOf(info);
  const Facts facts = factsOf(info[2], info.Env().Undefined());
  const fusco_ids ids = idsOf(info, rank);
  auto counts = Napi::Uint32Array::New(info.Env(), info_.second_counts);
  run(info.Env(), fusco_planner_count_again, open(info.Env()).get(), rank, &ids, facts.counts.data(),
      counts.Data());
  return counts;
}

Napi::Value Planner::decide(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const Facts facts = factsOf(info[0], info[1]);
  fusco_decision decision = fusco_sized<fusco_decision>();
  std::vector<uint16_t> groups(ranks_);
  run(env, fusco_planner_decide, open(env).get(), facts.counts.data(), facts.secondData(), &decision,
      groups.data());
  const bool isFlat = decision.strategy == FUSCO_STRATEGY_FLAT;
  if (isFlat) groups.clear();
  auto list = Napi::Uint16Array::New(env, groups.size());
  std::copy(groups.begin(), groups.end(), list.Data());
  Napi::Object decided = Napi::Object::New(env);
  decided.Set("strategy", isFlat ? "flat" : "hier");
  decided.Set("rule", balanceName(decision.rule));
  decided.Set("groups", list);
  decided.Set("reason", decision.reason);
  setNumbers(decided, {{"ranksPerNode", decision.ranks_per_node}});
  return decided;
}

Napi::Value Planner::shard(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const uint32_t rank = rankOf(info);
  const Facts facts = factsOf(info[2], info[3]);
  const fusco_ids ids = idsOf(info, rank);
  const fusco_planner *planner = open(env).get();
  return shardOf(env, [&](fusco_buffer *shard) {
    run(env, fusco_planner_shard, planner, rank, &ids, facts.counts.data(), facts.secondData(), shard);
  });
}

}  // namespace fusco_node
