#include "audit.hpp"

#include <cstring>

#include "layouts.hpp"
#include "plan_layout.h"

namespace fusco::audit {

Audit::Audit(Entries entries, const fusco_audit_layout &layout)
    : entries_(std::move(entries)), layout_(layout) {
  checkLayout(layout);
}

void Audit::setInput(const fusco_audit_input &input) {
  const Numbers numbers = numbersOf(input.dtype);
  if (input.row_bytes == 0 || input.row_bytes > FUSCO_MAX_ROW_BYTES) {
    throw Failure(FUSCO_E_OPTION, "row_bytes is %llu, not 1..%u", input.row_bytes, FUSCO_MAX_ROW_BYTES)
        .limited(input.row_bytes, FUSCO_MAX_ROW_BYTES);
  }
  if (input.row_bytes % numbers.bytes != 0) {
    throw Failure(FUSCO_E_DTYPE, "rows of %llu bytes are no whole number of elements of %u", input.row_bytes,
                  numbers.bytes);
  }
  if (input.rows == nullptr) throw Failure(FUSCO_E_OPTION, "rows is NULL");
  for (uint32_t rank = 0; rank < entries_.ranks(); rank++) {
    const uint64_t wanted = entries_.tokens(rank) * input.row_bytes;
    if (input.rows[rank].bytes >= wanted && (wanted == 0 || input.rows[rank].data != nullptr)) continue;
    throw Failure(FUSCO_E_BUFFER, "the input of rank %u has %llu bytes < %u tokens x %llu", rank,
                  input.rows[rank].bytes, entries_.tokens(rank), input.row_bytes)
        .atRank(rank)
        .limited(input.rows[rank].bytes, wanted);
  }
  for (uint32_t rank = 0; rank < entries_.ranks() && input.previous != nullptr; rank++) {
    checkData("previous", input.previous[rank], rank);
  }
  dtype_ = input.dtype;
  numbers_ = numbers;
  rowBytes_ = input.row_bytes;
  rows_.assign(input.rows, input.rows + entries_.ranks());
  for (uint32_t rank = 0; rank < entries_.ranks(); rank++) {
    rows_[rank].bytes = entries_.tokens(rank) * rowBytes_;
  }
  previous_.clear();
  if (input.previous != nullptr) previous_.assign(input.previous, input.previous + entries_.ranks());
  index_.reset();
  previousIndex_.reset();
}

void Audit::needInput() const {
  if (rows_.empty()) throw Failure(FUSCO_E_OPTION, "no input was set");
}

const uint8_t *Audit::previousRow(uint32_t source, uint32_t token) const {
  if (previous_.empty() || (uint64_t{token} + 1) * rowBytes_ > previous_[source].bytes) return nullptr;
  return static_cast<const uint8_t *>(previous_[source].data) + token * rowBytes_;
}

const RowIndex &Audit::index() {
  if (index_ == nullptr) index_ = std::make_unique<RowIndex>(rows_.data(), entries_.ranks(), rowBytes_);
  return *index_;
}

const RowIndex *Audit::previousIndex() {
  if (previousIndex_ == nullptr && !previous_.empty()) {
    previousIndex_ = std::make_unique<RowIndex>(previous_.data(), entries_.ranks(), rowBytes_);
  }
  return previousIndex_.get();
}

void checkData(const char *what, const fusco_buffer &buffer, uint32_t rank) {
  if (buffer.bytes == 0 || buffer.data != nullptr) return;
  throw Failure(FUSCO_E_BUFFER, "%s of rank %u has %llu bytes and no data", what, rank, buffer.bytes)
      .atRank(rank);
}

bool isZero(const uint8_t *bytes, uint64_t count) {
  return count == 0 || (bytes[0] == 0 && std::memcmp(bytes, bytes + 1, count - 1) == 0);
}

}  // namespace fusco::audit
