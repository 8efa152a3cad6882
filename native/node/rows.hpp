// Work on one rank's rows around its exchanges: fp8 and gating. The structs that the functions of the C
// interface take, read from plain objects; their buffers are used until the call returns.
#pragma once

#include "bind.hpp"

namespace fusco_node {

// {experts, topk, score, groups, groupTopk, groupScore, normalize, scale}
inline fusco_gate_options gateOptionsOf(const Fields &fields) {
  fusco_gate_options options{};
  options.experts = fields.get<uint32_t>("experts");
  options.topk = fields.get<uint32_t>("topk");
  options.score = fields.choice<fusco_score>(
      "score", {{"softmax", FUSCO_SCORE_SOFTMAX}, {"sigmoid", FUSCO_SCORE_SIGMOID}});
  options.groups = fields.get<uint32_t>("groups");
  options.group_topk = fields.get<uint32_t>("groupTopk");
  options.group_score =
      fields.choice<fusco_group_score>("groupScore", {{"max", FUSCO_GROUP_MAX}, {"top2", FUSCO_GROUP_TOP2}});
  options.normalize = fields.get<bool>("normalize") ? 1 : 0;
  options.scale = fields.get<float>("scale", 1);
  return options;
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

// {the options of a gate, tokens, logits, bias?, ids, weights, scores}
template <>
inline fusco_gate_call structOf(const Fields &fields, uint32_t rank) {
  fusco_gate_call call = fusco_sized<fusco_gate_call>();
  call.options = gateOptionsOf(fields);
  call.tokens = fields.get<uint64_t>("tokens");
  call.logits = fields.memory("logits", rank);
  if (fields.has("bias")) call.bias = fields.memory("bias", rank);
  call.ids = fields.memory("ids", rank);
  call.weights = fields.memory("weights", rank);
  call.scores = fields.memory("scores", rank);
  return call;
}

// {the same options, tokens, ids, scores, weightsGradient, logitsGradient}
template <>
inline fusco_gate_backward_call structOf(const Fields &fields, uint32_t rank) {
  fusco_gate_backward_call call = fusco_sized<fusco_gate_backward_call>();
  call.options = gateOptionsOf(fields);
  call.tokens = fields.get<uint64_t>("tokens");
  call.ids = fields.memory("ids", rank);
  call.scores = fields.memory("scores", rank);
  call.weights_gradient = fields.memory("weightsGradient", rank);
  call.logits_gradient = fields.memory("logitsGradient", rank);
  return call;
}

}  // namespace fusco_node
