// Where the entries of a plan go: what every layout is expanded from.
#pragma once

#include "shard_view.hpp"
#include "spec.hpp"

namespace fusco::audit {

// Instance of an entry that reaches no rank: masked, or dropped.
constexpr uint16_t noInstance = UINT16_MAX;

// The entries of one source rank.
struct SourceEntries {
  uint32_t tokens = 0;
  std::vector<uint16_t> instances;  // [tokens, topk]
};

class Entries {
 public:
  // Copies what it needs of a plan that was verified.
  Entries(const fusco_plan_options &options, const fusco_buffer *shards);
  // Plans the routing of all ranks. Throws what planning throws.
  Entries(const fusco_plan_options &options, const std::vector<fusco_ids> &ids);

  const planning::Spec &spec() const { return spec_; }
  uint32_t ranks() const { return spec_.ranks; }
  uint32_t tokens(uint32_t rank) const { return sources_[rank].tokens; }
  // The instance of an entry, or noInstance.
  uint16_t instance(uint32_t source, uint64_t entry) const { return sources_[source].instances[entry]; }
  uint32_t rankOf(uint16_t instance) const { return spec_.placement.instanceRank[instance]; }
  uint32_t expertOf(uint16_t instance) const { return spec_.placement.instanceExpert[instance]; }

 private:
  void add(const plan_file::ShardView &shard);

  planning::Spec spec_;
  std::vector<SourceEntries> sources_;
};

}  // namespace fusco::audit
