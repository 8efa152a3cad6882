// First pass over a rank's entries: expert ids of any integer type become targets, which are
// instances, or experts where quotas choose the instance. One call per entry.
#pragma once

#include <cstdint>
#include <type_traits>

#include "plan_types.hpp"

namespace fusco::planning {

enum class BadId : uint32_t { none, range, duplicate };

// The targets that entries of one source rank may choose, by expert: CandidateLists, on either side.
struct Candidates {
  const uint32_t *first;  // [experts]; null: every expert has one candidate
  const uint32_t *count;  // [experts]
  const uint16_t *targets;
};

struct Routing {
  uint32_t experts;
  uint32_t topk;
  uint16_t masked;  // what an entry without an expert becomes: the number of targets
  Candidates candidates;
};

struct Routed {
  uint16_t target;  // `masked` if the id is bad
  BadId bad;
};

// `ids` are those of the whole token. Of an expert named twice, the entry with the lowest k stays.
template <class Id>
FUSCO_ON_BOTH Routed routeEntry(const Routing &routing, const Id *ids, uint32_t token, uint32_t k) {
  const Id id = ids[k];
  // Negative ids become large.
  if (static_cast<uint64_t>(id) >= routing.experts) {
    const bool isMasked = std::is_signed<Id>::value && id == static_cast<Id>(-1);
    return {routing.masked, isMasked ? BadId::none : BadId::range};
  }
  for (uint32_t before = 0; before < k; before++) {
    if (ids[before] == id) return {routing.masked, BadId::duplicate};
  }
  const Candidates &all = routing.candidates;
  const auto expert = static_cast<uint32_t>(id);
  if (all.first == nullptr) return {all.targets[expert], BadId::none};
  return {all.targets[all.first[expert] + token % all.count[expert]], BadId::none};
}

}  // namespace fusco::planning
