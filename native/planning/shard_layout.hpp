// Sections of a shard that is being written, from the number of elements of each.
#pragma once

#include <cstring>

#include "failure.hpp"
#include "plan_layout.h"
#include "shard.hpp"

namespace fusco::planning {

class ShardLayout {
 public:
  uint64_t counts[FUSCO_SECTIONS] = {};

  // Fixes the offsets. Throws E_LIMIT for a shard beyond the format's limit.
  void place() {
    bytes_ = FUSCO_SHARD_BODY;
    for (int section = 0; section < FUSCO_SECTIONS; section++) {
      offsets_[section] = counts[section] == 0 ? 0 : bytes_;
      bytes_ = sectionEnd(bytes_, section, counts[section]);
    }
    if (bytes_ > FUSCO_MAX_SHARD_BYTES) {
      throw Failure(FUSCO_E_LIMIT, "a shard of %llu bytes > %u", bytes_, FUSCO_MAX_SHARD_BYTES)
          .limited(bytes_, FUSCO_MAX_SHARD_BYTES);
    }
  }

  uint64_t bytes() const { return bytes_; }

  template <class T>
  T *at(uint8_t *shard, int section) const {
    return reinterpret_cast<T *>(shard + offsets_[section]);
  }

  // Zeros the head, and the last bytes of every section, where gaps may be. Before anything is written.
  void clearGaps(uint8_t *shard) const {
    std::memset(shard, 0, FUSCO_SHARD_BODY);
    uint64_t end = FUSCO_SHARD_BODY;
    for (int section = 0; section < FUSCO_SECTIONS; section++) {
      const uint64_t next = sectionEnd(end, section, counts[section]);
      if (next > end) std::memset(shard + next - FUSCO_SECTION_ALIGN, 0, FUSCO_SECTION_ALIGN);
      end = next;
    }
  }

  void writeHead(uint8_t *shard, const uint32_t (&words)[FUSCO_SHARD_WORDS]) const {
    std::memcpy(shard, words, sizeof words);
    for (int section = 0; section < FUSCO_SECTIONS; section++) {
      const uint32_t entry[2] = {static_cast<uint32_t>(offsets_[section]),
                                 static_cast<uint32_t>(counts[section])};
      std::memcpy(shard + FUSCO_SECTION_TABLE + sizeof entry * section, entry, sizeof entry);
    }
  }

 private:
  uint64_t offsets_[FUSCO_SECTIONS] = {};
  uint64_t bytes_ = 0;
};

}  // namespace fusco::planning
