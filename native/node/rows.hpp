// Work on one rank's rows around its exchanges: fp8 and gating. The structs that the functions of the C
// interface take, read from plain objects; their buffers are used until the call returns.
#pragma once

#include "bind.hpp"

namespace fusco_node {

// What both directions of a gate have: {experts, topk, score, groups, groupTopk, groupScore, normalize,
// scale, tokens, ids, scores}
template <class Call>
Call gateOf(const Fields &fields, uint32_t rank) {
  Call call = fusco_sized<Call>();
  call.options.experts = fields.get<uint32_t>("experts");
  call.options.topk = fields.get<uint32_t>("topk");
  call.options.score = fields.choice<fusco_score>(
      "score", {{"softmax", FUSCO_SCORE_SOFTMAX}, {"sigmoid", FUSCO_SCORE_SIGMOID}});
  call.options.groups = fields.get<uint32_t>("groups");
  call.options.group_topk = fields.get<uint32_t>("groupTopk");
  call.options.group_score =
      fields.choice<fusco_group_score>("groupScore", {{"max", FUSCO_GROUP_MAX}, {"top2", FUSCO_GROUP_TOP2}});
  call.options.normalize = fields.get<bool>("normalize") ? 1 : 0;
  call.options.scale = fields.get<float>("scale", 1);
  call.tokens = fields.get<uint64_t>("tokens");
  call.ids = fields.memory("ids", rank);
  call.scores = fields.memory("scores", rank);
  return call;
}

// {dtype, rows, hidden, values, codes, scales}
template <>
inline fusco_fp8_call structOf(const Fields &fields, uint32_t rank) {
  fusco_fp8_call call = fusco_sized<fusco_fp8_call>();
  call.dtype = fields.dtype();
  call.rows = fields.get<uint64_t>("rows");
  call.hidden = fields.get<uint64_t>("hidden");
  call.values = fields.memory("values", rank);
  call.codes = fields.memory("codes", rank);
  call.scales = fields.memory("scales", rank);
  return call;
}

// {what both have, logits, bias?, weights}
template <>
inline fusco_gate_call structOf(const Fields &fields, uint32_t rank) {
  fusco_gate_call call = gateOf<fusco_gate_call>(fields, rank);
  call.logits = fields.memory("logits", rank);
  if (fields.has("bias")) call.bias = fields.memory("bias", rank);
  call.weights = fields.memory("weights", rank);
  return call;
}

// {what both have, weightsGradient, logitsGradient}
template <>
inline fusco_gate_backward_call structOf(const Fields &fields, uint32_t rank) {
  fusco_gate_backward_call call = gateOf<fusco_gate_backward_call>(fields, rank);
  call.weights_gradient = fields.memory("weightsGradient", rank);
  call.logits_gradient = fields.memory("logitsGradient", rank);
  return call;
}

}  // namespace fusco_node
