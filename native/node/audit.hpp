// The JavaScript class Audit: what any library's receive buffers and combined rows must hold.
#pragma once

#include "fusco_audit.h"
#include "plan_file.hpp"

namespace fusco_node {

class Audit : public Handle<Audit, Owned<fusco_audit, fusco_audit_destroy>> {
 public:
  static constexpr char name[] = "Audit";
  static constexpr char label[] = "the audit";

  // (plan file, layout)
  explicit Audit(const Napi::CallbackInfo &info);

  // ({dtype, rowBytes, rows, previous?}): the memory stays referenced.
  void setInput(const Napi::CallbackInfo &info);
  // (rank, rows) -> Int32Array [rows, 3]
  Napi::Value origins(const Napi::CallbackInfo &info);
  // ({rank, received, room}) -> report
  Napi::Value dispatch(const Napi::CallbackInfo &info);
  // ({rank, combined, weights?, outputs?, order?, room}) -> report
  Napi::Value combine(const Napi::CallbackInfo &info);

 private:
  Napi::Reference<Napi::Array> keep_;
};

template <>
struct ClassOf<fusco_audit> : std::type_identity<Audit> {};

// () -> {name: layout}
Napi::Value auditLayouts(const Napi::CallbackInfo &info);
// () -> [name of an order of addition]
Napi::Value auditOrders(const Napi::CallbackInfo &info);

}  // namespace fusco_node
