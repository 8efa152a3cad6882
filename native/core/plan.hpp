// A plan in the form in which the host backend runs it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "checked_shard.hpp"
#include "context.hpp"
#include "fusco.h"

namespace fusco {

// Tokens of one source rank that one thread handles at a time.
struct TokenTask {
  uint32_t rank;
  uint32_t begin;
  uint32_t end;
};

}  // namespace fusco

// All ranks share this process's memory, so a row goes from its token straight to its slots under every
// strategy: forwarding it over a rank of the node would only copy it once more. What a hierarchical plan
// with sums per node changes here is the order of combine's additions, which the plan fixes.
struct fusco_plan {
  std::shared_ptr<fusco::Context> context;
  uint32_t ranks = 0;
  uint32_t firstRank = 0;  // what errors call the first of them
  uint32_t ranksPerNode = 0;
  uint32_t topk = 0;
  uint32_t instances = 0;
  bool isHierarchical = false;
  fusco::Tree tree = fusco::Tree::none;  // always none in flat plans
  uint64_t kept = 0;
  uint64_t tokens = 0;
  std::vector<fusco::RankPlan> rank;
  std::vector<fusco::TokenTask> tasks;
};

namespace fusco {

// A plan, and its shards for the sections that only some backends read. The shards' bytes must outlive it.
struct CheckedPlan {
  std::unique_ptr<fusco_plan> plan;
  std::vector<CheckedShard> shards;  // [ranks]
};

// Checks all shards of a plan together and copies what the host backend needs. Throws Failure with the codes
// of fusco_plan_create. `context` is the plan's; its lock is not needed.
CheckedPlan checkPlan(std::shared_ptr<Context> context, const fusco_plan_desc &desc);

}  // namespace fusco
