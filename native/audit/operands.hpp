// Where the terms of a rank's sums are read.
#pragma once

#include "audit.hpp"
#include "orders.hpp"

namespace fusco::audit {

// The terms of a token, and whether their weights count.
struct Sum {
  std::vector<Term> terms;
  bool isWeighted;
};

class Operands {
 public:
  // Both outlive it. Throws E_OPTION, E_BUFFER.
  Operands(const Audit &audit, const fusco_audit_combine_call &call);

  bool hasOutputs() const { return call_.outputs != nullptr; }
  Sum of(uint32_t token) const;

 private:
  uint32_t topk() const { return audit_.entries().spec().topk; }
  bool isPerToken() const { return audit_.layout().per == FUSCO_PER_TOKEN; }
  const uint8_t *outputRow(uint32_t rank, uint64_t entry) const {
    return static_cast<const uint8_t *>(call_.outputs[rank].data) + outputRows_[entry] * audit_.rowBytes();
  }
  void findOutputs(uint64_t entries);
  void addOutputs(uint32_t rank, const Block &block, const Origin *expected);

  const Audit &audit_;
  const fusco_audit_combine_call &call_;
  bool isWeighted_;
  std::vector<uint64_t> outputRows_;  // [tokens, topk]: the row of each entry in what its rank returns
};

}  // namespace fusco::audit
