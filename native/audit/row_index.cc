#include "row_index.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace fusco::audit {

// Four independent multiply-and-rotate lanes. Equal hashes are compared byte by byte, so a weak hash costs
// time only.
uint64_t hashOf(const uint8_t *row, uint64_t bytes) {
  constexpr uint64_t factor = 0x9e3779b97f4a7c15;
  uint64_t lanes[4] = {1, 2, 3, 4};
  uint64_t at = 0;
  for (; at + sizeof lanes <= bytes; at += sizeof lanes) {
    uint64_t words[4];
    std::memcpy(words, row + at, sizeof words);
    for (int i = 0; i < 4; i++) lanes[i] = std::rotl((lanes[i] ^ words[i]) * factor, 29);
  }
  for (; at < bytes; at++) lanes[0] = std::rotl((lanes[0] ^ row[at]) * factor, 29);
  uint64_t hash = bytes;
  for (const uint64_t lane : lanes) hash = std::rotl((hash ^ lane) * factor, 31);
  return hash;
}

RowIndex::RowIndex(const fusco_buffer *rows, uint32_t ranks, uint64_t rowBytes)
    : rows_(rows, rows + ranks), rowBytes_(rowBytes) {
  for (uint32_t source = 0; source < ranks; source++) {
    const uint64_t tokens = rows_[source].bytes / rowBytes;
    for (uint64_t token = 0; token < tokens; token++) {
      const TokenId id{source, static_cast<uint32_t>(token)};
      byHash_.emplace_back(hashOf(rowOf(id), rowBytes), id);
    }
  }
  std::stable_sort(byHash_.begin(), byHash_.end(),
                   [](const auto &a, const auto &b) { return a.first < b.first; });
}

std::optional<TokenId> RowIndex::find(const uint8_t *row) const {
  const uint64_t hash = hashOf(row, rowBytes_);
  auto at = std::lower_bound(byHash_.begin(), byHash_.end(), hash,
                             [](const auto &item, uint64_t wanted) { return item.first < wanted; });
  for (; at != byHash_.end() && at->first == hash; at++) {
    if (std::memcmp(rowOf(at->second), row, rowBytes_) == 0) return at->second;
  }
  return std::nullopt;
}

std::optional<TokenId> RowIndex::findPart(const uint8_t *row, uint64_t begin, uint64_t end) const {
  for (uint32_t source = 0; source < rows_.size(); source++) {
    const uint64_t tokens = rows_[source].bytes / rowBytes_;
    for (uint64_t token = 0; token < tokens; token++) {
      const TokenId id{source, static_cast<uint32_t>(token)};
      if (std::memcmp(rowOf(id) + begin, row + begin, end - begin) == 0) return id;
    }
  }
  return std::nullopt;
}

}  // namespace fusco::audit
