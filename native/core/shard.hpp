// Reading a shard's bytes, which may be anything. The layout is in plan_layout.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "failure.hpp"
#include "plan_layout.h"

namespace fusco {

// Bytes of an element of a section.
uint32_t sectionElementBytes(int section);
// Where the section behind this one starts.
uint64_t sectionEnd(uint64_t start, int section, uint64_t elements);

// The elements of a section where they lie, at any address. Each is to be read once: the caller may be
// changing the bytes, and a second value would not be the one that was checked.
template <class T>
class SectionElements {
 public:
  SectionElements(const uint8_t *bytes, size_t count) : bytes_(bytes), count_(count) {}

  size_t size() const { return count_; }
  T operator[](size_t index) const {
    T value;
    std::memcpy(&value, bytes_ + index * sizeof value, sizeof value);
    return value;
  }

 private:
  const uint8_t *bytes_;
  size_t count_;
};

// The head of a shard and where its sections lie: everything here was checked against the shard's size, and
// later reads use these values, not the bytes again, which the caller may be changing.
class ShardReader {
 public:
  // Throws E_SHARD_LAYOUT, E_SHARD_HEAD or E_RANKS.
  ShardReader(const fusco_buffer &shard, uint32_t rank, uint32_t ranks);

  uint32_t word(int index) const { return words_[index]; }
  uint64_t entries() const { return uint64_t{words_[FUSCO_W_TOKENS]} * words_[FUSCO_W_TOPK]; }

  // A failure of this shard: it names the rank.
  template <class... Args>
  Failure refused(fusco_status status, const char *format, Args... args) const {
    return Failure(status, format, args...).atRank(rank_);
  }

  // Throws E_SHARD_HEAD unless a section has this many elements.
  void expectCount(int section, uint64_t expected) const;

  template <class T>
  SectionElements<T> elements(int index) const {
    return {bytes_ + offsets_[index], counts_[index]};
  }

  // Copies a section out.
  template <class T>
  std::vector<T> section(int index) const {
    std::vector<T> values(counts_[index]);
    copyOut(index, values.data(), values.size() * sizeof(T));
    return values;
  }

 protected:
  uint32_t rank_;

 private:
  void checkSections(uint64_t size);
  void checkHead(uint32_t ranks) const;
  void copyOut(int section, void *to, size_t bytes) const;

  const uint8_t *bytes_;
  uint32_t words_[FUSCO_SHARD_WORDS];
  uint32_t offsets_[FUSCO_SECTIONS];
  uint32_t counts_[FUSCO_SECTIONS];
};

}  // namespace fusco
