// An exchange as JavaScript asked for it, in the form that the C interface takes.
#pragma once

#include <deque>
#include <vector>

#include "values.hpp"

namespace fusco_node {

enum class Exchange { dispatch, combine, weightGradient };

// Owns the arrays that the C structures point to; the memory they describe belongs to the caller.
class Call {
 public:
  // Reads the call's object. What must stay referenced is appended to `keep`. Throws E_OPTION, E_BUFFER,
  // E_DTYPE.
  Call(Exchange exchange, const Napi::Object &object, uint32_t ranks, Napi::Array &keep);

  // Needs no JavaScript and may run on any thread.
  fusco_status run(fusco_plan *plan, fusco_stats *stats, fusco_error *error) const;

  // The call as the C interface takes it; of the exchange that it was made for only.
  const fusco_dispatch_call &dispatch() const { return dispatch_; }
  const fusco_combine_call &combine() const { return combine_; }
  const fusco_weight_gradient_call &weightGradient() const { return gradient_; }

 private:
  void readDispatch(const Napi::Object &object, Napi::Array &keep);
  void readCombine(const Napi::Object &object, Napi::Array &keep);
  void readWeightGradient(const Napi::Object &object, Napi::Array &keep);
  fusco_payload payloadOf(const Napi::Value &value, uint32_t index, Napi::Array &keep);
  // One buffer per rank from the array in `field`; null where the field is undefined and may be.
  const fusco_buffer *buffers(const Napi::Object &object, const char *field, const std::string &name,
                              bool optional, Napi::Array &keep);

  Exchange exchange_;
  uint32_t ranks_;
  // A deque's elements stay where they are while it grows.
  std::deque<std::vector<fusco_buffer>> buffers_;
  std::vector<fusco_payload> payloads_;
  fusco_dispatch_call dispatch_{};
  fusco_combine_call combine_{};
  fusco_weight_gradient_call gradient_{};
};

}  // namespace fusco_node
