// The JavaScript class Planner: plans one rank at a time in native code.
#pragma once

#include "fusco_planning.h"
#include "handle.hpp"

namespace fusco_node {

// Options of a plan as JavaScript describes them. Owns what the struct points to.
class PlannerOptions {
 public:
  explicit PlannerOptions(const Fields &fields);
  const fusco_plan_options *get() const { return &options_; }

 private:
  std::vector<uint32_t> offsets_;
  std::vector<uint16_t> ranks_;
  fusco_plan_options options_ = fusco_sized<fusco_plan_options>();
};

// {ids, tokens, topk} of a rank as a table; valid as long as it is referenced.
fusco_ids tableOf(const Fields &fields, uint32_t rank);

// A copy of bytes.
Napi::Value bytesFor(Napi::Env env, const void *data, size_t bytes);

// A shard, from a function that fills a buffer, and says how many bytes it needs if it has none.
template <class Plan>
Napi::Value shardOf(Napi::Env env, Plan plan) {
  fusco_buffer shard{};
  plan(&shard);
  auto bytes = Napi::Uint8Array::New(env, shard.bytes);
  shard.data = bytes.Data();
  plan(&shard);
  return bytes;
}

class Planner : public Handle<Planner, Owned<fusco_planner, fusco_planner_destroy>> {
 public:
  static constexpr char name[] = "Planner";
  static constexpr char label[] = "the planner";

  // (options)
  explicit Planner(const Napi::CallbackInfo &info);

  // () -> {instances, counts, secondCounts, optionsDigest}
  Napi::Value describe(const Napi::CallbackInfo &info);
  // (rank, table) -> Uint32Array
  Napi::Value count(const Napi::CallbackInfo &info);
  // (rank, table, counts) -> Uint32Array
  Napi::Value countAgain(const Napi::CallbackInfo &info);
  // (counts, secondCounts?) -> {strategy, rule, groups, reason, ranksPerNode}
  Napi::Value decide(const Napi::CallbackInfo &info);
  // (rank, table, counts, secondCounts?) -> Uint8Array
  Napi::Value shard(const Napi::CallbackInfo &info);

 private:
  // The gathered facts of all ranks.
  struct Facts {
    std::vector<uint32_t> counts, second;
    const uint32_t *secondData() const { return second.empty() ? nullptr : second.data(); }
  };

  // `second` undefined: none are needed.
  Facts factsOf(const Napi::Value &counts, const Napi::Value &second) const;

  fusco_planner_info info_ = fusco_sized<fusco_planner_info>();
};

}  // namespace fusco_node
