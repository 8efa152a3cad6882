// Random routings with their shards, made by native planning on the CPU.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>
#include <vector>

#include "fusco_planning.h"

namespace fusco {

using Random = std::mt19937;

inline uint32_t upTo(Random &random, uint32_t most) {
  return std::uniform_int_distribution<uint32_t>(0, most)(random);
}

inline void refused(fusco_status status, const fusco_error &error) {
  if (status == FUSCO_OK) return;
  std::fprintf(stderr, "%s: %s\n", fusco_status_name(status), error.message);
  std::exit(1);
}

// A random routing with its shards, made by native planning on the CPU.
struct RandomRouting {
  fusco_plan_options options = fusco_sized<fusco_plan_options>();
  std::vector<uint32_t> placementOffsets;
  std::vector<uint16_t> placementRanks;
  std::vector<uint32_t> tokens;
  uint32_t maxTokens = 1;
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::vector<uint32_t>> shards;

  // `mostTokens` of a rank; `experts`, `ranks`: their numbers, 0: any.
  explicit RandomRouting(uint32_t seed, uint32_t mostTokens = 20, uint32_t experts = 0, uint32_t ranks = 0) {
    Random random(seed);
    options.ranks = 1 + upTo(random, 7);
    if (ranks > 0) options.ranks = ranks;
    options.experts = 1 + upTo(random, 23);
    if (experts > 0) options.experts = experts;
    options.topk = 1 + upTo(random, std::min(options.experts, 8u) - 1);
    options.align = 1 + upTo(random, 1) * upTo(random, 8);
    options.capacity = upTo(random, 2) == 0 ? 1 + upTo(random, 12) : 0;
    options.strategy = upTo(random, 1) == 0 ? FUSCO_STRATEGY_FLAT : FUSCO_STRATEGY_HIER;
    do {
      options.ranks_per_node = 1 + upTo(random, options.ranks - 1);
    } while (options.ranks % options.ranks_per_node != 0);
    options.hidden = 8;
    options.replicas = upTo(random, 1) == 0 ? FUSCO_REPLICAS_QUOTA_1 : FUSCO_REPLICAS_LOCAL;
    if (upTo(random, 1) == 0) placeRandomly(random);
    route(random, mostTokens);
    plan();
  }

 private:
  void placeRandomly(Random &random) {
    placementOffsets.push_back(0);
    for (uint32_t expert = 0; expert < options.experts; expert++) {
      std::set<uint16_t> hosts;
      for (uint32_t i = 0; i <= upTo(random, 2); i++)
        hosts.insert(static_cast<uint16_t>(upTo(random, options.ranks - 1)));
      placementRanks.insert(placementRanks.end(), hosts.begin(), hosts.end());
      placementOffsets.push_back(static_cast<uint32_t>(placementRanks.size()));
    }
    options.placement_offsets = placementOffsets.data();
    options.placement_ranks = placementRanks.data();
  }

  void route(Random &random, uint32_t mostTokens) {
    const uint32_t most = upTo(random, mostTokens);
    const uint32_t masks = upTo(random, 3) == 0 ? 100 : upTo(random, 1) * 20;
    for (uint32_t rank = 0; rank < options.ranks; rank++) {
      tokens.push_back(upTo(random, 4) == 0 ? 0 : upTo(random, most));
      maxTokens = std::max(maxTokens, tokens[rank]);
      std::vector<int32_t> &own = ids.emplace_back();
      std::vector<int32_t> all(options.experts);
      for (uint32_t expert = 0; expert < options.experts; expert++)
        all[expert] = static_cast<int32_t>(expert);
      for (uint32_t token = 0; token < tokens[rank]; token++) {
        std::shuffle(all.begin(), all.end(), random);
        for (uint32_t k = 0; k < options.topk; k++) own.push_back(upTo(random, 99) < masks ? -1 : all[k]);
      }
    }
  }

  void plan() {
    fusco_error error{};
    fusco_planner *planner = nullptr;
    refused(fusco_planner_create(&options, &planner, &error), error);
    auto info = fusco_sized<fusco_planner_info>();
    refused(fusco_planner_describe(planner, &info, &error), error);
    std::vector<fusco_ids> tables;
    std::vector<uint32_t> counts(uint64_t{options.ranks} * info.counts);
    std::vector<uint32_t> again(uint64_t{options.ranks} * info.second_counts + 1);
    for (uint32_t rank = 0; rank < options.ranks; rank++) {
      auto own = fusco_sized<fusco_ids>();
      own.dtype = FUSCO_ID_I32;
      own.tokens = tokens[rank];
      own.topk = options.topk;
      own.data = ids[rank].data();
      tables.push_back(own);
      refused(fusco_planner_count(planner, rank, &own, counts.data() + uint64_t{rank} * info.counts, &error),
              error);
    }
    for (uint32_t rank = 0; info.second_counts > 0 && rank < options.ranks; rank++) {
      uint32_t *to = again.data() + uint64_t{rank} * info.second_counts;
      refused(fusco_planner_count_again(planner, rank, &tables[rank], counts.data(), to, &error), error);
    }
    const uint32_t *second = info.second_counts > 0 ? again.data() : nullptr;
    for (uint32_t rank = 0; rank < options.ranks; rank++) {
      fusco_buffer shard{};
      refused(fusco_planner_shard(planner, rank, &tables[rank], counts.data(), second, &shard, &error),
              error);
      std::vector<uint32_t> &bytes = shards.emplace_back((shard.bytes + 3) / 4);
      shard.data = bytes.data();
      refused(fusco_planner_shard(planner, rank, &tables[rank], counts.data(), second, &shard, &error),
              error);
    }
    fusco_planner_destroy(planner);
  }
};

}  // namespace fusco
