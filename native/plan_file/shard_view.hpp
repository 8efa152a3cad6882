// A shard of a plan file: views of its sections, which lie inside it, in order and with zeroed gaps. What
// they say is not checked yet; see verify.hpp.
#pragma once

#include <cstdint>
#include <span>

#include "failure.hpp"
#include "plan_layout.h"

namespace fusco::plan_file {

class ShardView {
 public:
  // `bytes` are aligned to words and outlive the view. Throws E_SHARD_LAYOUT.
  ShardView(const uint8_t *bytes, uint64_t size, uint32_t rank);

  uint32_t word(int index) const { return head_[index]; }
  uint64_t entries() const { return uint64_t{word(FUSCO_W_TOKENS)} * word(FUSCO_W_TOPK); }
  // Elements of a section.
  uint32_t count(int section) const { return head_[FUSCO_SECTION_TABLE / 4 + 2 * section + 1]; }
  const uint8_t *bytes() const { return reinterpret_cast<const uint8_t *>(head_); }
  uint64_t size() const { return size_; }

  template <class T = uint32_t>
  std::span<const T> section(int index) const {
    const uint32_t offset = head_[FUSCO_SECTION_TABLE / 4 + 2 * index];
    return {reinterpret_cast<const T *>(bytes() + offset), count(index)};
  }

 private:
  const uint32_t *head_;
  uint64_t size_;
};

}  // namespace fusco::plan_file
