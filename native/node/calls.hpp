// An exchange as JavaScript describes it, in the form that the C interface takes.
#pragma once

#include <deque>

#include "bind.hpp"

namespace fusco_node {

// C is fusco_dispatch_call, fusco_combine_call, fusco_weight_gradient_call or fusco_combine_gradient_call.
// Owns the arrays that the struct points to; the memory that they describe belongs to the caller and stays
// referenced by the `keep` of the fields.
template <class C>
class Call {
 public:
  // `ranks`: length of each array of buffers. Throws E_OPTION, E_BUFFER, E_DTYPE.
  Call(const Fields &fields, uint32_t ranks) : ranks_(ranks) { read(fields); }
  Call(Call &&) = default;

  const C *get() const { return &call_; }

 private:
  void read(const Fields &fields);
  fusco_payload payloadOf(const Fields &fields);
  void readRows(const Fields &fields);
  // One buffer per rank.
  const fusco_buffer *buffers(const Fields &fields, const char *name) {
    return buffers_.emplace_back(fields.memories(name, ranks_)).data();
  }
  // Null for undefined.
  const fusco_buffer *optionalBuffers(const Fields &fields, const char *name) {
    return fields.has(name) ? buffers(fields, name) : nullptr;
  }

  uint32_t ranks_;
  // A deque's elements stay where they are while it grows.
  std::deque<std::vector<fusco_buffer>> buffers_;
  std::vector<fusco_payload> payloads_;
  C call_ = fusco_sized<C>();
};

template <>
void Call<fusco_dispatch_call>::read(const Fields &fields);
template <>
void Call<fusco_combine_call>::read(const Fields &fields);
template <>
void Call<fusco_weight_gradient_call>::read(const Fields &fields);
template <>
void Call<fusco_combine_gradient_call>::read(const Fields &fields);

template <IsCall C>
class Argument<const C *> : public Call<C> {
 public:
  Argument(const Napi::Value &value, const std::string &name, Reading &reading)
      : Call<C>(Fields(value, name, "", reading.keep), reading.ranks) {}
};

}  // namespace fusco_node
