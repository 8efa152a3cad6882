// A receive buffer against the origins of its rows.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "classify.hpp"

namespace fusco::audit {

namespace {

class DispatchAudit {
 public:
  DispatchAudit(Audit &audit, const fusco_audit_dispatch_call &call)
      : audit_(audit),
        classifier_(audit),
        findings_(call.differences, call.difference_count),
        received_(static_cast<const uint8_t *>(call.received.data)),
        rows_(call.received.bytes / audit.rowBytes()) {}

  fusco_audit_report run(const RankOrigins &origins) {
    for (const Block &block : origins.blocks) {
      const Origin *expected = origins.of(block);
      // Rows of the block that the buffer has.
      const uint64_t held = std::min<uint64_t>(block.count, rows_ - std::min(rows_, block.begin));
      findings_.look(block.count);
      if (audit_.layout().order == FUSCO_AUDIT_ROWS_SORTED) {
        compareInOrder(block, expected, held);
      } else {
        compareInAnyOrder(block, expected, held);
      }
      comparePadding(block);
    }
    if (audit_.layout().tail == FUSCO_AUDIT_FILLER_ZERO) {
      for (uint64_t row = origins.end; row < rows_; row++) {
        findings_.look(1);
        findings_.add(classifier_.classifyPadding(row, at(row), FUSCO_AUDIT_EXTRA));
      }
    }
    return findings_.report;
  }

 private:
  const uint8_t *at(uint64_t row) const { return received_ + row * audit_.rowBytes(); }
  const uint8_t *rowOf(const Origin &origin) const {
    return audit_.row(static_cast<uint32_t>(origin.source), static_cast<uint32_t>(origin.token));
  }
  bool isRow(uint64_t row, const Origin &origin) const {
    return std::memcmp(at(row), rowOf(origin), audit_.rowBytes()) == 0;
  }

  void addMissing(uint64_t row, const Origin &origin) {
    fusco_audit_difference difference = differenceAt(row, origin, audit_.rowBytes());
    difference.kind = FUSCO_AUDIT_MISSING;
    difference.found = FUSCO_AUDIT_FOUND_NOTHING;
    findings_.add(difference);
  }

  void compareInOrder(const Block &block, const Origin *expected, uint64_t held) {
    for (uint64_t i = 0; i < held; i++) {
      const uint64_t row = block.begin + i;
      if (!isRow(row, expected[i])) findings_.add(classifier_.classify(row, at(row), expected[i]));
    }
    for (uint64_t i = held; i < block.count; i++) addMissing(block.begin + i, expected[i]);
  }

  // Finds each row among the expected ones; those that are left over are paired with the expected rows that
  // were not found.
  void compareInAnyOrder(const Block &block, const Origin *expected, uint64_t held) {
    std::unordered_multimap<uint64_t, uint64_t> open;
    open.reserve(block.count);
    // Backwards: of equal rows the last that was inserted is found first.
    for (uint64_t i = block.count; i-- > 0;) open.emplace(hashOf(rowOf(expected[i]), audit_.rowBytes()), i);
    std::vector<char> isFound(block.count);
    std::vector<uint64_t> wrong;
    for (uint64_t i = 0; i < held; i++) {
      const uint64_t row = block.begin + i;
      auto [first, last] = open.equal_range(hashOf(at(row), audit_.rowBytes()));
      first = std::find_if(first, last, [&](const auto &item) { return isRow(row, expected[item.second]); });
      if (first == last) {
        wrong.push_back(row);
        continue;
      }
      isFound[first->second] = 1;
      open.erase(first);
    }
    std::vector<uint64_t> left;
    for (uint64_t i = 0; i < block.count; i++) {
      if (isFound[i] == 0) left.push_back(i);
    }
    for (const uint64_t row : wrong) {
      const auto which = nearest(row, expected, left);
      addMisplaced(block, row, expected[*which], expected);
      left.erase(which);
    }
    for (uint64_t i = 0; i < left.size(); i++) addMissing(block.begin + held + i, expected[left[i]]);
  }

  // The expected row that has the most bytes of this one; of the first few.
  std::vector<uint64_t>::iterator nearest(uint64_t row, const Origin *expected, std::vector<uint64_t> &left) {
    constexpr ptrdiff_t mostCompared = 64;
    const auto end = left.begin() + std::min<ptrdiff_t>(mostCompared, left.end() - left.begin());
    auto best = left.begin();
    uint64_t bestEqual = 0;
    for (auto which = left.begin(); which != end; which++) {
      const uint8_t *candidate = rowOf(expected[*which]);
      uint64_t equal = 0;
      for (uint64_t byte = 0; byte < audit_.rowBytes(); byte++) equal += at(row)[byte] == candidate[byte];
      if (equal > bestEqual) {
        best = which;
        bestEqual = equal;
      }
    }
    return best;
  }

  void addMisplaced(const Block &block, uint64_t row, const Origin &origin, const Origin *expected) {
    fusco_audit_difference difference = classifier_.classify(row, at(row), origin);
    if (difference.kind == FUSCO_AUDIT_OTHER_TOKEN) {
      const bool isOfBlock = std::any_of(expected, expected + block.count, [&](const Origin &other) {
        return std::memcmp(rowOf(other), at(row), audit_.rowBytes()) == 0;
      });
      if (isOfBlock) difference.kind = FUSCO_AUDIT_DUPLICATE;
    }
    findings_.add(difference);
  }

  void comparePadding(const Block &block) {
    if (audit_.layout().padding == FUSCO_AUDIT_FILLER_ANY) return;
    for (uint64_t row = block.begin + block.count; row < std::min(rows_, block.begin + block.slots); row++) {
      findings_.look(1);
      if (!isZero(at(row), audit_.rowBytes())) {
        findings_.add(classifier_.classifyPadding(row, at(row), FUSCO_AUDIT_PADDING_DIRTY));
      }
    }
  }

  Audit &audit_;
  Classifier classifier_;
  Findings findings_;
  const uint8_t *received_;
  uint64_t rows_;
};

}  // namespace

fusco_audit_report auditDispatch(Audit &audit, const fusco_audit_dispatch_call &call) {
  audit.needInput();
  checkData("received", call.received, call.rank);
  if (call.received.bytes % audit.rowBytes() != 0) {
    throw Failure(FUSCO_E_BUFFER, "what rank %u received has %llu bytes, no whole number of rows of %llu",
                  call.rank, call.received.bytes, audit.rowBytes())
        .atRank(call.rank)
        .limited(call.received.bytes, audit.rowBytes());
  }
  const RankOrigins origins = audit.origins(call.rank, call.received.bytes / audit.rowBytes());
  return DispatchAudit(audit, call).run(origins);
}

}  // namespace fusco::audit
