// The JavaScript class PlanFile: a plan file that was read and verified in native code.
#pragma once

#include "planner.hpp"

namespace fusco_node {

class PlanFile : public Handle<PlanFile, Owned<fusco_plan_file, fusco_plan_file_close>> {
 public:
  static constexpr char name[] = "PlanFile";
  static constexpr char label[] = "the plan file";

  // (path or bytes)
  explicit PlanFile(const Napi::CallbackInfo &info);

  // () -> Uint8Array [32]
  Napi::Value planId(const Napi::CallbackInfo &info);
  // (rank) -> Uint8Array
  Napi::Value shard(const Napi::CallbackInfo &info);
  // (tables): plans them again and compares.
  void checkRouting(const Napi::CallbackInfo &info);
  // (path, reason): writes the plan again.
  void write(const Napi::CallbackInfo &info);

 private:
  fusco_plan_file_info described(Napi::Env env) const;
};

}  // namespace fusco_node
