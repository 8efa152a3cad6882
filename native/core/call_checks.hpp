// What every backend checks of a call and reports about it: all that follows from the plan's sizes alone.
#pragma once

#include "buffers.hpp"

namespace fusco {

// Throw E_OPTION, E_BUFFER or E_DTYPE for sizes, overlaps and dtypes. Nothing is read from the buffers. The
// lock of the plan's context must be held.
void checkCall(const fusco_plan &plan, const fusco_dispatch_call &call, const CheckMemory &each = {});
void checkCall(const fusco_plan &plan, const fusco_combine_call &call, const CheckMemory &each = {});
void checkCall(const fusco_plan &plan, const fusco_weight_gradient_call &call, const CheckMemory &each = {});
void checkCall(const fusco_plan &plan, const fusco_combine_gradient_call &call, const CheckMemory &each = {});

// Add the rows and bytes of a call to its statistics.
void countDispatch(const fusco_plan &plan, const fusco_dispatch_call &call, fusco_stats &stats);
void countCombine(const fusco_plan &plan, const fusco_combine_call &call, fusco_stats &stats);
void countWeightGradient(const fusco_plan &plan, const fusco_weight_gradient_call &call, fusco_stats &stats);
void countCombineGradient(const fusco_plan &plan, const fusco_combine_gradient_call &call,
                          fusco_stats &stats);

// The two calls that a combine gradient consists of. Their buffers are those of the call.
class CombineGradientParts {
 public:
  explicit CombineGradientParts(const fusco_combine_gradient_call &call);
  CombineGradientParts(const CombineGradientParts &) = delete;
  CombineGradientParts &operator=(const CombineGradientParts &) = delete;

  fusco_dispatch_call dispatch = fusco_sized<fusco_dispatch_call>();  // scaled, of one payload
  fusco_weight_gradient_call weightGradient = fusco_sized<fusco_weight_gradient_call>();

 private:
  fusco_payload payload_ = fusco_sized<fusco_payload>();
};

}  // namespace fusco
