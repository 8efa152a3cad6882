#include "entries.hpp"

#include "planner.hpp"

namespace fusco::audit {

Entries::Entries(const fusco_plan_options &options, const fusco_buffer *shards)
    : spec_(planning::makeSpec(options)) {
  for (uint32_t rank = 0; rank < spec_.ranks; rank++) {
    add({static_cast<const uint8_t *>(shards[rank].data), shards[rank].bytes, rank});
  }
}

Entries::Entries(const fusco_plan_options &options, const std::vector<fusco_ids> &ids) {
  const planning::Planner planner(options);
  spec_ = planner.spec();
  planner.planAll(ids, [&](uint32_t rank, const fusco_buffer &shard) {
    add({static_cast<const uint8_t *>(shard.data), shard.bytes, rank});
  });
}

void Entries::add(const plan_file::ShardView &shard) {
  SourceEntries source;
  source.tokens = shard.word(FUSCO_W_TOKENS);
  const auto instances = shard.section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
  const auto slots = shard.section<int32_t>(FUSCO_S_ENTRY_SLOT);
  source.instances.resize(shard.entries());
  for (uint64_t entry = 0; entry < source.instances.size(); entry++) {
    source.instances[entry] = slots[entry] < 0 ? noInstance : instances[entry];
  }
  sources_.push_back(std::move(source));
}

}  // namespace fusco::audit
