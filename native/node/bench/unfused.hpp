// The JavaScript class Unfused: the pipeline that fusion replaces, on the host.
#pragma once

#include "../plan.hpp"
#include "fusco_bench.h"

namespace fusco_node {

class Unfused : public Created<Unfused, fusco_unfused_create, fusco_unfused, fusco_unfused_destroy> {
 public:
  static constexpr char name[] = "Unfused";
  static constexpr char label[] = "the pipeline or its context";

  // (plan, rowBytes)
  explicit Unfused(const Napi::CallbackInfo &info) : Created(info), plan_(Plan::handleOf(info[0])) {}

  bool isClosed() const { return handle_ == nullptr || plan_->engine().closed(); }

 private:
  std::shared_ptr<PlanState> plan_;
};

template <>
struct ClassOf<fusco_unfused> : std::type_identity<Unfused> {};

}  // namespace fusco_node
