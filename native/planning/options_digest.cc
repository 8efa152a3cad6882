#include "options_digest.hpp"

#include <functional>
#include <map>
#include <string>

namespace fusco::planning {

namespace {

void packPlacement(const Placement &placement, MsgpackWriter &to) {
  if (placement.isBlock) return to.array(0);
  const ExpertRanks &map = placement.map;
  to.array(placement.experts);
  for (uint32_t expert = 0; expert < placement.experts; expert++) {
    const uint32_t first = map.offsets[expert];
    const uint32_t count = map.offsets[expert + 1] - first;
    // An expert without replicas is a number.
    if (count > 1) to.array(count);
    for (uint32_t i = 0; i < count; i++) to.integer(map.ranks[first + i]);
  }
}

const char *strategyName(fusco_strategy strategy) {
  switch (strategy) {
    case FUSCO_STRATEGY_FLAT:
      return "flat";
    case FUSCO_STRATEGY_HIER:
      return "hier";
    default:
      return "auto";
  }
}

// A map whose pairs are written in the order of their keys, as those of a canonical map are.
class SortedMap {
 public:
  explicit SortedMap(MsgpackWriter &to) : to_(to) {}
  void add(const char *key, std::function<void()> write) { pairs_[key] = std::move(write); }
  void number(const char *key, uint32_t value) {
    add(key, [&to = to_, value] { to.integer(value); });
  }
  void text(const char *key, const char *value) {
    add(key, [&to = to_, value] { to.text(value); });
  }
  void write() const {
    to_.map(static_cast<uint32_t>(pairs_.size()));
    for (const auto &[key, write] : pairs_) {
      to_.text(key);
      write();
    }
  }

 private:
  MsgpackWriter &to_;
  std::map<std::string, std::function<void()>> pairs_;
};

// The options of a plan; `spec` and `to` are referenced.
SortedMap optionsMap(const Spec &spec, MsgpackWriter &to) {
  const bool isFlat = spec.isFlat();
  SortedMap fields(to);
  fields.number("experts", spec.experts);
  fields.number("ranks", spec.ranks);
  fields.number("ranksPerNode", spec.ranksPerNode);
  fields.number("topk", spec.topk);
  fields.number("hidden", spec.hidden);
  fields.number("align", spec.align);
  fields.number("capacity", spec.capacity);
  fields.number("sliceRows", spec.sliceRows);
  fields.number("tileTokens", spec.tileTokens);
  fields.text("dtype", dtypeName(spec.dtype));
  fields.text("strategy", strategyName(spec.strategy));
  fields.text("balance", isFlat ? "none" : balanceName(spec.balance));
  fields.text("partial", isFlat ? "none" : spec.partial == FUSCO_PARTIAL_F32 ? "f32" : "payload");
  fields.add("placement", [&spec, &to] { packPlacement(spec.placement, to); });
  // Left out at their default.
  if (!isFlat && spec.sum == FUSCO_SUM_TOKEN) fields.text("sum", "token");
  if (spec.placement.hasReplicas() && spec.replicas == FUSCO_REPLICAS_LOCAL) {
    fields.text("replicas", "local");
  }
  if (spec.combineDtype != defaultCombineDtype(spec.dtype)) {
    fields.text("combineDtype", dtypeName(spec.combineDtype));
  }
  return fields;
}

}  // namespace

const char *dtypeName(fusco_dtype dtype) {
  constexpr const char *names[] = {"bytes", "f32", "f16", "bf16", "fp8"};
  return names[dtype];
}

const char *balanceName(fusco_balance rule) {
  constexpr const char *names[] = {"best", "static", "rotate", "lpt"};
  return names[rule];
}

void packOptions(const Spec &spec, const Decision &decision, MsgpackWriter &to) {
  SortedMap fields = optionsMap(spec, to);
  fields.text("rule", decision.isFlat() ? "none" : balanceName(decision.rule));
  fields.add("groups", [&] {
    to.array(static_cast<uint32_t>(decision.groups.size()));
    for (const uint16_t group : decision.groups) to.integer(group);
  });
  fields.write();
}

Digest optionsDigest(const Spec &spec, uint32_t ranksPerHost) {
  MsgpackWriter options;
  SortedMap fields = optionsMap(spec, options);
  // Not part of a plan, but AUTO depends on it.
  if (ranksPerHost > 0) fields.number("ranksPerHost", ranksPerHost);
  // Not part of a plan either, but a rank that refuses one must not leave the others waiting.
  if (spec.maxRows > 0) fields.number("maxRows", spec.maxRows);
  fields.write();
  return sha256(options.bytes().data(), options.bytes().size());
}

}  // namespace fusco::planning
