// Top-k ids and weights from a router's logits, and the gradient; executor/training/gating.ts is the oracle.
#pragma once

#include "buffers.hpp"

namespace fusco {

// Throw E_OPTION or E_BUFFER unless the call makes sense. Ids, which are the caller's too, are not looked at.
void checkGate(const fusco_gate_call &call, const CheckMemory &each = {});
void checkGateBackward(const fusco_gate_backward_call &call, const CheckMemory &each = {});

void gate(Context &context, const fusco_gate_call &call);
void gateBackward(Context &context, const fusco_gate_backward_call &call);

}  // namespace fusco
