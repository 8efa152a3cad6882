// Verification of whole plans, as planner/verify does it: the same order, codes and places. The order of rows
// is fixed (expert, source rank, token, k), so each row's only possible place is derived from the run tables
// and compared.
#pragma once

#include "header.hpp"
#include "shard_view.hpp"

namespace fusco::plan_file {

// Throws the first defect: E_SHARD_HEAD, E_RUN_TABLE, E_SEGMENT_BOUNDS, E_ENTRY, E_STREAM, E_SLICE,
// E_FORWARD, E_LIMIT.
void verifyPlan(const Header &header, const std::vector<ShardView> &shards);

}  // namespace fusco::plan_file
