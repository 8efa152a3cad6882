// Plans one rank on the host: the passes of this folder under plain loops.
#pragma once

#include <functional>

#include "decision.hpp"
#include "options_digest.hpp"

namespace fusco::planning {

// Immutable; several threads may use one at the same time.
class Planner {
 public:
  // Throws what makeSpec and ranksPerHostOf throw.
  explicit Planner(const fusco_plan_options &options);
  // The strategy is settled.
  explicit Planner(Spec spec) : spec_(std::move(spec)) {}

  // The options as given; their strategy may be AUTO.
  const Spec &spec() const { return spec_; }
  Digest digest() const { return optionsDigest(spec_, ranksPerHost_); }
  // Counts of a rank in the first gather: its rows per instance, and spec().rowCounts() where those follow
  // from its ids alone.
  uint32_t firstCounts() const;
  // In the second gather: spec().rowCounts() where those depend on the counts of all ranks; else 0.
  uint32_t secondCounts() const;

  // [firstCounts()]. Throws E_ROUTING_*, E_LIMIT, E_OPTION, E_BUFFER.
  void count(uint32_t rank, const fusco_ids &ids, uint32_t *counts) const;
  // [secondCounts()]. `counts` [ranks, firstCounts()]. Throws the same, and E_FACTS.
  void countAgain(uint32_t rank, const fusco_ids &ids, const uint32_t *counts, uint32_t *second) const;
  // What the facts decide. `spec` is valid as long as the planner, and its strategy is settled; the rows per
  // node of `facts` are those of its nodes.
  struct Settled {
    const Spec *spec;
    Facts facts;
    Decision decision;
  };
  // Throws E_FACTS.
  Settled settle(const uint32_t *counts, const uint32_t *second) const;
  // Bytes of the rank's shard; `shard` is null, or is written if its capacity is enough. Throws E_BUFFER, and
  // what countAgain throws.
  uint64_t shard(uint32_t rank, const fusco_ids &ids, const uint32_t *counts, const uint32_t *second,
                 const fusco_buffer &shard) const;
  // Plans the routing of all ranks, `ids` [ranks], and gives each rank's shard to `use`, which may read it
  // during the call. Throws what the functions above throw.
  void planAll(const std::vector<fusco_ids> &ids,
               const std::function<void(uint32_t rank, const fusco_buffer &shard)> &use) const;

 private:
  void countRows(uint32_t rank, const fusco_ids &ids, const uint16_t *instance, const int32_t *slot,
                 uint32_t *rows) const;
  Facts factsOf(const uint32_t *counts, const uint32_t *second) const;

  Spec spec_;
  std::vector<Spec> candidates_;  // of AUTO; else none
  uint32_t ranksPerHost_ = 0;     // of AUTO; else 0
};

}  // namespace fusco::planning
