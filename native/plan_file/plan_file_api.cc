// The C interface of plan files.
#include <algorithm>
#include <cstring>

#include "fusco_planning.h"
#include "guard.hpp"
#include "ids_from.hpp"
#include "plan_file.hpp"
#include "structs.hpp"

using fusco::Failure;
using fusco::need;
using fusco::plan_file::Header;
using fusco::plan_file::PlanFile;

// What fusco_plan_file_describe lends.
struct fusco_plan_file {
  explicit fusco_plan_file(std::unique_ptr<PlanFile> file) : plan(std::move(file)) {
    const auto &spec = plan->header().spec;
    options.experts = spec.experts;
    options.ranks = spec.ranks;
    options.ranks_per_node = spec.ranksPerNode;
    options.topk = spec.topk;
    options.hidden = spec.hidden;
    options.dtype = spec.dtype;
    options.combine_dtype = spec.combineDtype;
    options.align = spec.align;
    options.capacity = spec.capacity;
    options.strategy = spec.strategy;
    options.balance = spec.balance;
    options.partial = spec.partial;
    options.sum = spec.sum;
    options.replicas = spec.replicas;
    options.slice_rows = spec.sliceRows;
    options.tile_tokens = spec.tileTokens;
    if (!spec.placement.isBlock) {
      options.placement_offsets = spec.placement.map.offsets.data();
      options.placement_ranks = spec.placement.map.ranks.data();
    }
    for (const auto &shard : plan->shards()) {
      shards.push_back({const_cast<uint8_t *>(shard.bytes()), shard.size()});
    }
  }

  std::unique_ptr<PlanFile> plan;
  fusco_plan_options options = fusco_sized<fusco_plan_options>();
  std::vector<fusco_buffer> shards;
};

namespace {

// What a caller wants to write, without the digests.
Header headerFrom(const fusco_plan_file_info &info) {
  Header header;
  header.spec = fusco::planning::makeSpec(fusco::structFrom(info.options, "fusco_plan_options"));
  header.decision.strategy = header.spec.strategy;
  if (header.spec.isFlat()) return header;
  if (header.spec.strategy == FUSCO_STRATEGY_AUTO) {
    throw Failure(FUSCO_E_PLAN_HEADER, "strategy auto is not settled").at("/header/core/strategy");
  }
  if (info.rule <= FUSCO_BALANCE_BEST || info.rule > FUSCO_BALANCE_LPT) {
    throw Failure(FUSCO_E_PLAN_HEADER, "rule %d is not the one of a decision", info.rule)
        .at("/header/core/rule");
  }
  header.decision.rule = info.rule;
  const uint16_t *groups = &need(info.rail_groups, "rail_groups");
  header.decision.groups.assign(groups, groups + header.spec.ranks);
  return header;
}

}  // namespace

extern "C" {

fusco_status fusco_plan_file_open(const char *path, fusco_plan_file **file, fusco_error *error) {
  return fusco::guarded(error, [&] {
    need(file, "file");
    *file = new fusco_plan_file(PlanFile::open(&need(path, "path")));
  });
}

fusco_status fusco_plan_file_parse(const void *data, uint64_t bytes, fusco_plan_file **file,
                                   fusco_error *error) {
  return fusco::guarded(error, [&] {
    need(file, "file");
    if (data == nullptr && bytes > 0) throw Failure(FUSCO_E_OPTION, "data is NULL");
    *file = new fusco_plan_file(std::make_unique<PlanFile>(data, bytes));
  });
}

void fusco_plan_file_close(fusco_plan_file *file) { delete file; }

fusco_status fusco_plan_file_describe(const fusco_plan_file *file, fusco_plan_file_info *info,
                                      fusco_error *error) {
  return fusco::guarded(error, [&] {
    const Header &header = need(file, "file").plan->header();
    need(info, "info");
    auto value = fusco_sized<fusco_plan_file_info>();
    value.options = &file->options;
    value.rail_groups = header.decision.isFlat() ? nullptr : header.decision.groups.data();
    value.shards = file->shards.data();
    std::copy(header.planId.begin(), header.planId.end(), value.plan_id);
    value.rule = header.decision.rule;
    value.reason = header.reason.c_str();
    fusco::structTo(info, value, "fusco_plan_file_info");
  });
}

fusco_status fusco_plan_file_check_routing(const fusco_plan_file *file, const fusco_ids *ids,
                                           fusco_error *error) {
  return fusco::guarded(error, [&] {
    const PlanFile &plan = *need(file, "file").plan;
    plan.checkRouting(fusco::planning::idsFrom(ids, plan.header().spec.ranks));
  });
}

fusco_status fusco_plan_file_write(const char *path, const fusco_plan_file_info *info, uint8_t plan_id[32],
                                   fusco_error *error) {
  return fusco::guarded(error, [&] {
    need(path, "path");
    const auto given = fusco::structFrom(info, "fusco_plan_file_info");
    Header header = headerFrom(given);
    const fusco_buffer *first = &need(given.shards, "shards");
    const std::vector<fusco_buffer> shards(first, first + header.spec.ranks);
    const std::string_view reason = given.reason == nullptr ? "" : given.reason;
    const std::vector<uint8_t> bytes = fusco::plan_file::encodePlan(header, shards, reason);
    // Nothing is written that could not be read.
    const PlanFile verified(bytes.data(), bytes.size());
    fusco::plan_file::writeFile(path, bytes.data(), bytes.size());
    if (plan_id != nullptr) std::copy(header.planId.begin(), header.planId.end(), plan_id);
  });
}

}  // extern "C"
