// An audit: entries in a layout, the rows to compare with, and what was derived from them.
#pragma once

#include <memory>
#include <mutex>

#include "numbers.hpp"
#include "origins.hpp"
#include "row_index.hpp"

namespace fusco::audit {

class Audit {
 public:
  // Throws E_OPTION.
  Audit(Entries entries, const fusco_audit_layout &layout);

  const Entries &entries() const { return entries_; }
  const fusco_audit_layout &layout() const { return layout_; }
  RankOrigins origins(uint32_t rank, std::optional<uint64_t> rows = std::nullopt) const {
    return originsOf(entries_, layout_, rank, rows);
  }

  // `input` has the form of this version. Throws E_OPTION, E_DTYPE, E_BUFFER.
  void setInput(const fusco_audit_input &input);
  // Throws E_OPTION if no input was set.
  void needInput() const;

  const Numbers &numbers() const { return numbers_; }
  bool isFp8() const { return dtype_ == FUSCO_DTYPE_FP8; }
  uint64_t rowBytes() const { return rowBytes_; }
  const uint8_t *row(uint32_t source, uint32_t token) const {
    return static_cast<const uint8_t *>(rows_[source].data) + token * rowBytes_;
  }
  // A row of the step before; null if there is none.
  const uint8_t *previousRow(uint32_t source, uint32_t token) const;

  // Made on first use.
  const RowIndex &index();
  // Null without rows of the step before.
  const RowIndex *previousIndex();

  std::mutex &mutex() const { return mutex_; }

 private:
  Entries entries_;
  fusco_audit_layout layout_;
  fusco_dtype dtype_ = FUSCO_DTYPE_BYTES;
  Numbers numbers_;
  uint64_t rowBytes_ = 0;
  std::vector<fusco_buffer> rows_;
  std::vector<fusco_buffer> previous_;
  std::unique_ptr<RowIndex> index_;
  std::unique_ptr<RowIndex> previousIndex_;
  mutable std::mutex mutex_;
};

// Collects the differences of one rank.
class Findings {
 public:
  Findings(fusco_audit_difference *list, uint32_t room) : list_(list), room_(list == nullptr ? 0 : room) {}

  void look(uint64_t rows) { report.rows += rows; }
  void add(const fusco_audit_difference &difference) {
    report.wrong++;
    report.counts[difference.kind]++;
    if (report.listed < room_) list_[report.listed++] = difference;
  }

  fusco_audit_report report = fusco_sized<fusco_audit_report>();

 private:
  fusco_audit_difference *list_;
  uint32_t room_;
};

// A difference of a row that belongs to `origin`, whose kind is not known yet.
inline fusco_audit_difference differenceAt(uint64_t row, const Origin &origin, uint64_t rowBytes) {
  fusco_audit_difference difference{};
  difference.row = row;
  difference.source = origin.source;
  difference.token = origin.token;
  difference.k = origin.k;
  difference.kind = FUSCO_AUDIT_VALUES;
  difference.found_source = -1;
  difference.found_token = -1;
  difference.end_byte = rowBytes;
  return difference;
}

inline void recognize(fusco_audit_difference &difference, fusco_audit_found found,
                      const std::optional<TokenId> &id) {
  difference.found = found;
  if (!id.has_value()) return;
  difference.found_source = static_cast<int32_t>(id->source);
  difference.found_token = static_cast<int32_t>(id->token);
}

// Throws E_BUFFER for bytes at NULL.
void checkData(const char *what, const fusco_buffer &buffer, uint32_t rank);

bool isZero(const uint8_t *bytes, uint64_t count);

// Compares a receive buffer of `call.rank`. Throws E_OPTION, E_LIMIT, E_BUFFER.
fusco_audit_report auditDispatch(Audit &audit, const fusco_audit_dispatch_call &call);

// Compares combined rows of `call.rank`. Throws E_OPTION, E_DTYPE, E_BUFFER.
fusco_audit_report auditCombine(Audit &audit, const fusco_audit_combine_call &call);

}  // namespace fusco::audit
