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

}  // namespace

const char *dtypeName(fusco_dtype dtype) {
  constexpr const char *names[] = {"bytes", "f32", "f16", "bf16", "fp8"};
  return names[dtype];
}

const char *balanceName(fusco_balance rule) {
  constexpr const char *names[] = {"best", "static", "rotate", "lpt"};
  return names[rule];
}

void packOptions(const Spec &spec, const Decision *decision, MsgpackWriter &to) {
  const bool isFlat = spec.isFlat();
  // Sorted by key, as a canonical map is.
  std::map<std::string, std::function<void()>> fields;
  const auto number = [&](const char *name, uint32_t value) {
    fields[name] = [=, &to] { to.integer(value); };
  };
  const auto text = [&](const char *name, const char *value) { fields[name] = [=, &to] { to.text(value); }; };
  number("experts", spec.experts);
  number("ranks", spec.ranks);
  number("ranksPerNode", spec.ranksPerNode);
  number("topk", spec.topk);
  number("hidden", spec.hidden);
  number("align", spec.align);
  number("capacity", spec.capacity);
  number("sliceRows", spec.sliceRows);
  number("tileTokens", spec.tileTokens);
  text("dtype", dtypeName(spec.dtype));
  text("strategy", strategyName(spec.strategy));
  text("balance", isFlat ? "none" : balanceName(spec.balance));
  text("partial", isFlat ? "none" : spec.partial == FUSCO_PARTIAL_F32 ? "f32" : "payload");
  fields["placement"] = [&] { packPlacement(spec.placement, to); };
  // Left out at their default.
  if (!isFlat && spec.sum == FUSCO_SUM_TOKEN) text("sum", "token");
  if (spec.placement.hasReplicas() && spec.replicas == FUSCO_REPLICAS_LOCAL) text("replicas", "local");
  if (spec.combineDtype != defaultCombineDtype(spec.dtype)) {
    text("combineDtype", dtypeName(spec.combineDtype));
  }
  // Not in a plan, but a rank that refuses one must not leave the others waiting.
  if (decision == nullptr && spec.maxRows > 0) number("maxRows", spec.maxRows);
  if (decision != nullptr) {
    text("rule", decision->isFlat() ? "none" : balanceName(decision->rule));
    fields["groups"] = [&] {
      to.array(static_cast<uint32_t>(decision->groups.size()));
      for (const uint16_t group : decision->groups) to.integer(group);
    };
  }
  to.map(static_cast<uint32_t>(fields.size()));
  for (const auto &[key, write] : fields) {
    to.text(key);
    write();
  }
}

Digest optionsDigest(const Spec &spec) {
  MsgpackWriter options;
  packOptions(spec, nullptr, options);
  return sha256(options.bytes().data(), options.bytes().size());
}

}  // namespace fusco::planning
