// What a row holds that does not have the bytes of its token.
#pragma once

#include "audit.hpp"

namespace fusco::audit {

// Rows whose wrong part is searched for in all tokens; further ones are classified without that.
constexpr uint32_t mostSearches = 256;

class Classifier {
 public:
  explicit Classifier(Audit &audit) : audit_(audit) {}

  // `found` is not the row of `origin`; `row` is its number in the buffer.
  fusco_audit_difference classify(uint64_t row, const uint8_t *found, const Origin &origin);

  // A row that should be zero and is not.
  fusco_audit_difference classifyPadding(uint64_t row, const uint8_t *found, fusco_audit_kind kind);

 private:
  bool recognizeWhole(fusco_audit_difference &difference, const uint8_t *found);
  bool isPart(fusco_audit_difference &difference, const uint8_t *found, const uint8_t *expected);
  bool hasNewNan(const uint8_t *found, const uint8_t *expected) const;

  Audit &audit_;
  uint32_t searches_ = 0;
};

// Significant bits, 3..24, to which rounding to nearest explains every element of `found`; 0 if none does.
uint32_t roundingBits(const Numbers &numbers, const uint8_t *found, const uint8_t *expected, uint64_t bytes);

}  // namespace fusco::audit
