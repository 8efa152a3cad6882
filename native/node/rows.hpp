// Work on one rank's rows around its exchanges: fp8 and gating. The structs that the functions of the C
// interface take, read from plain objects; their buffers are used until the call returns.
#pragma once

#include "bind.hpp"

namespace fusco_node {

// {dtype, rows, hidden, values, codes, scales}
template <>
fusco_fp8_call structOf(const Fields &fields, uint32_t rank);

// {experts, topk, score, groups, groupTopk, groupScore, normalize, scale, tokens, logits, bias?, ids,
// weights, scores}
template <>
fusco_gate_call structOf(const Fields &fields, uint32_t rank);

// {the same options, tokens, ids, scores, weightsGradient, logitsGradient}
template <>
fusco_gate_backward_call structOf(const Fields &fields, uint32_t rank);

}  // namespace fusco_node
