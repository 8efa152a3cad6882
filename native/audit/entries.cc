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
  std::vector<uint32_t> counts(uint64_t{spec_.ranks} * planner.firstCounts());
  std::vector<uint32_t> second(uint64_t{spec_.ranks} * planner.secondCounts());
  for (uint32_t rank = 0; rank < spec_.ranks; rank++) {
    planner.count(rank, ids[rank], counts.data() + uint64_t{rank} * planner.firstCounts());
  }
  for (uint32_t rank = 0; rank < spec_.ranks && !second.empty(); rank++) {
    planner.countAgain(rank, ids[rank], counts.data(),
                       second.data() + uint64_t{rank} * planner.secondCounts());
  }
  std::vector<uint64_t> words;
  for (uint32_t rank = 0; rank < spec_.ranks; rank++) {
    fusco_buffer shard{};
    shard.bytes = planner.shard(rank, ids[rank], counts.data(), second.data(), shard);
    words.resize(shard.bytes / sizeof(uint64_t));
    shard.data = words.data();
    planner.shard(rank, ids[rank], counts.data(), second.data(), shard);
    add({static_cast<const uint8_t *>(shard.data), shard.bytes, rank});
  }
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
