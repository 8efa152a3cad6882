// A plan in the form in which the host backend runs it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "context.hpp"
#include "fusco.h"
#include "kernels.hpp"

namespace fusco {

// Where a kept entry's row lies: a row of a peer's receive buffer.
struct Target {
  uint32_t peer;
  int32_t row;  // negative: masked or dropped, no copy
};

struct RowRange {
  uint32_t first;
  uint32_t rows;
};

struct RankPlan {
  uint32_t tokens = 0;
  uint32_t recvRows = 0;
  uint32_t kept = 0;
  std::vector<Target> targets;    // [tokens, topk]
  std::vector<RowRange> padding;  // of the receive buffer, ascending
};

// Tokens of one source (or home) rank that one thread handles at a time.
struct TokenTask {
  uint32_t rank;
  uint32_t begin;
  uint32_t end;
};

}  // namespace fusco

// All ranks share this process's memory, so a row goes from its token straight to its slots under every
// strategy: forwarding it over a rank of the node would only copy it once more. What a hierarchical plan
// changes here is the order of combine's additions, which the plan fixes.
struct fusco_plan {
  std::shared_ptr<fusco::Context> context;
  uint32_t ranks = 0;
  uint32_t firstRank = 0;  // what errors call the first of them
  uint32_t ranksPerNode = 0;
  uint32_t topk = 0;
  fusco::Tree tree = fusco::Tree::none;
  uint64_t kept = 0;
  uint64_t tokens = 0;
  std::vector<fusco::RankPlan> rank;
  std::vector<fusco::TokenTask> tasks;
};

namespace fusco {

// Checks and copies a plan. Throws Failure.
std::unique_ptr<fusco_plan> makePlan(std::shared_ptr<Context> context, const fusco_plan_desc &desc);

}  // namespace fusco
