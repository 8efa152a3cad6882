// Top-k ids and weights from a router's logits, and the gradient; executor/gating.ts is the oracle.
#pragma once

#include "context.hpp"

namespace fusco {

void gate(Context &context, const fusco_gate_call &call);
void gateBackward(Context &context, const fusco_gate_backward_call &call);

}  // namespace fusco
