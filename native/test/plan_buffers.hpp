// The tables that exchanges read, in plan buffers: what planning on a GPU leaves, by plain loops over shards.
#pragma once

#include "plan_sizes.hpp"
#include "plan_tables.hpp"
#include "random_routing.hpp"
#include "shard.hpp"

namespace fusco::cuda {

inline PlanSizes sizesOf(const RandomRouting &routed, uint32_t limit) {
  auto limits = fusco_sized<fusco_cuda_plan_limits>();
  limits.max_tokens = routed.maxTokens;
  limits.max_recv_rows = limit;
  return planSizes(planning::makeSettledSpec(routed.options), limits);
}

// The plan buffers of all ranks in host memory: what planning on the device leaves for exchanges.
struct Buffers {
  PlanSizes sizes;
  std::vector<RankBits> deviceRanks;  // [ranks]
  std::vector<std::vector<uint64_t>> memory;
  std::vector<PlanBuffer> rank;

  Buffers(const RandomRouting &routed, const std::vector<uint32_t> &deviceOf, uint32_t limit) {
    const planning::Spec spec = planning::makeSettledSpec(routed.options);
    sizes = sizesOf(routed, limit);
    rank.resize(sizes.ranks);
    for (uint32_t r = 0; r < sizes.ranks; r++) {
      memory.emplace_back(planBufferBytes(sizes) / sizeof(uint64_t), 0x5a5a5a5a5a5a5a5a);
      layPlanBuffer(sizes, base(r), rank[r]);
      RankBits &ranks = deviceRanks.emplace_back();
      for (uint32_t other = 0; other < sizes.ranks; other++) {
        if (deviceOf[other] == deviceOf[r]) ranks.add(other);
      }
    }
    for (uint32_t r = 0; r < sizes.ranks; r++) place(routed, spec, r);
    for (uint32_t r = 0; r < sizes.ranks; r++) tell(routed, r);
  }

  uint8_t *base(uint32_t r) { return reinterpret_cast<uint8_t *>(memory[r].data()); }

 private:
  // Slots, blocks and padding, from the shard.
  void place(const RandomRouting &routed, const planning::Spec &spec, uint32_t r) {
    const fusco_buffer bytes = {const_cast<uint32_t *>(routed.shards[r].data()),
                                routed.shards[r].size() * sizeof(uint32_t)};
    const ShardReader shard(bytes, r, sizes.ranks);
    const auto slots = shard.section<int32_t>(FUSCO_S_ENTRY_SLOT);
    const auto instances = shard.section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
    const auto offsets = shard.section<uint32_t>(FUSCO_S_EXPERT_OFFSET);
    const auto rows = shard.section<uint32_t>(FUSCO_S_EXPERT_ROWS);
    const PlanBuffer &to = rank[r];
    for (size_t entry = 0; entry < slots.size(); entry++) {
      const bool isMasked = slots[entry] == FUSCO_SLOT_MASKED;
      const bool isClipped = slots[entry] >= 0 && static_cast<uint32_t>(slots[entry]) >= sizes.maxRecvRows;
      to.place[entry] = {isMasked ? 0u : spec.placement.instanceRank[instances[entry]],
                         isClipped ? FUSCO_SLOT_DROPPED : slots[entry]};
    }
    uint32_t paddings = 0;
    for (size_t j = 0; j < rows.size(); j++) {
      const RowRange range = paddingOf(offsets[j], rows[j], offsets[j + 1], sizes.maxRecvRows);
      if (range.rows > 0) to.paddings[paddings++] = {r, range.first, range.rows};
    }
    layDeviceRank(*to.head, 0, r, 0);
    layDeviceHead(*to.head, sizes, 1, routed.tokens[r], paddings);
    std::copy(routed.tokens.begin(), routed.tokens.end(), to.tokens);
    *to.onePass = {};
    for (uint32_t of = 0; of < sizes.ranks; of++) {
      layOnePassRank(*to.onePass, sizes, deviceRanks[r], of, 0, routed.tokens[of]);
    }
    layOnePassSizes(*to.onePass, sizes, deviceRanks[r],
                    *std::max_element(routed.tokens.begin(), routed.tokens.end()));
  }

  void tell(const RandomRouting &routed, uint32_t r) {
    const PlanBuffer &own = rank[r];
    for (uint32_t token = 0; token < routed.tokens[r]; token++) {
      const uint64_t first = uint64_t{token} * sizes.topk;
      for (uint32_t k = 0; k < sizes.topk; k++) {
        tellEntry(
            sizes, deviceRanks[r], {own.place + first, sizes.topk}, token, k, own.send + first,
            own.terms + first, [&](uint32_t here) {
              const uint64_t start = arrivalStart(sizes, deviceRanks[here], r);
              return ArrivalTables{rank[here].arrival + start * sizes.topk, rank[here].arrivalRow + start};
            });
      }
    }
  }
};

}  // namespace fusco::cuda
