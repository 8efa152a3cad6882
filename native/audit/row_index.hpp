// Finds the token that a row belongs to, by its bytes.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "fusco.h"

namespace fusco::audit {

struct TokenId {
  uint32_t source;
  uint32_t token;
};

uint64_t hashOf(const uint8_t *row, uint64_t bytes);

class RowIndex {
 public:
  // `rows` [ranks]; borrowed. Reads every row once.
  RowIndex(const fusco_buffer *rows, uint32_t ranks, uint64_t rowBytes);

  // The first token, by source rank and token, whose row has these bytes.
  std::optional<TokenId> find(const uint8_t *row) const;
  // The first token whose row has these bytes from `begin` to `end`. Looks at every row.
  std::optional<TokenId> findPart(const uint8_t *row, uint64_t begin, uint64_t end) const;

 private:
  const uint8_t *rowOf(TokenId id) const {
    return static_cast<const uint8_t *>(rows_[id.source].data) + id.token * rowBytes_;
  }

  std::vector<fusco_buffer> rows_;
  uint64_t rowBytes_;
  std::vector<std::pair<uint64_t, TokenId>> byHash_;  // ascending; equal hashes by source and token
};

}  // namespace fusco::audit
