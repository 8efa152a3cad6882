// The description of a plan that the classes of all backends take.
#pragma once

#include "bind.hpp"

namespace fusco_node {

// Reads {strategy, partial, sum, ranksPerNode} into a struct of the C interface.
template <class Desc>
void readPlanOptions(const Fields &fields, Desc &desc) {
  desc.ranks_per_node = fields.get<uint32_t>("ranksPerNode");
  desc.strategy = fields.choice<fusco_strategy>(
      "strategy", {{"flat", FUSCO_STRATEGY_FLAT}, {"hier", FUSCO_STRATEGY_HIER}});
  desc.partial = fields.choice<fusco_partial>(
      "partial", {{"payload", FUSCO_PARTIAL_PAYLOAD}, {"f32", FUSCO_PARTIAL_F32}});
  desc.sum = fields.choice<fusco_sum>("sum", {{"node", FUSCO_SUM_NODE}, {"token", FUSCO_SUM_TOKEN}});
}

// {ranksPerNode, strategy, partial, sum, shards}: the shards of all ranks and the options.
template <>
class Argument<const fusco_plan_desc *> {
 public:
  Argument(const Napi::Value &value, const std::string &name, Reading &reading) {
    const Fields fields(value, name, "", reading.keep);
    const Napi::Value list = fields.at("shards");
    if (!list.IsArray()) refuse(fields.env(), FUSCO_E_OPTION, "shards must be an array");
    desc_.ranks = list.As<Napi::Array>().Length();
    shards_ = fields.memories("shards", desc_.ranks);
    desc_.shards = shards_.data();
    readPlanOptions(fields, desc_);
  }
  Argument(Argument &&) = default;

  const fusco_plan_desc *get() const { return &desc_; }

 private:
  std::vector<fusco_buffer> shards_;
  fusco_plan_desc desc_ = fusco_sized<fusco_plan_desc>();
};

// `groups`: the rail group of each rank, a Uint16Array of [ranks]. Empty if it is undefined: rows are not
// forwarded.
inline std::vector<uint16_t> railGroupsOf(const Fields &fields, uint32_t ranks) {
  return fields.has("groups") ? fields.elements<uint16_t>("groups", ranks) : std::vector<uint16_t>();
}

}  // namespace fusco_node
