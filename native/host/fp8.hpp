// Rows to and from e4m3 codes with one scale for every 128 elements; executor/training/fp8.ts is the oracle.
#pragma once

#include "buffers.hpp"

namespace fusco {

// Throws E_OPTION, E_DTYPE or E_BUFFER unless the call makes sense.
void checkFp8(const fusco_fp8_call &call, const CheckMemory &each = {});

void quantize(Context &context, const fusco_fp8_call &call);
void dequantize(Context &context, const fusco_fp8_call &call);

}  // namespace fusco
