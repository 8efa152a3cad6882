#include "shard_view.hpp"

#include <algorithm>

#include "shard.hpp"

namespace fusco::plan_file {

ShardView::ShardView(const uint8_t *bytes, uint64_t size, uint32_t rank)
    : head_(reinterpret_cast<const uint32_t *>(bytes)), size_(size) {
  const auto refused = [&](auto... text) {
    return Failure(FUSCO_E_SHARD_LAYOUT, text...).atRank(rank).at("/ranks/%u", rank);
  };
  if (size < FUSCO_SHARD_BODY) throw refused("%llu bytes < %d", size, FUSCO_SHARD_BODY);
  if (word(FUSCO_W_MAGIC) != FUSCO_SHARD_MAGIC) throw refused("the shard does not start with FSHD");
  for (int section = FUSCO_S_TILE_ORDER + 1; section < FUSCO_SECTIONS; section++) {
    if (count(section) != 0) throw refused("reserved section %d is not empty", section);
  }
  uint64_t needed = FUSCO_SHARD_BODY;
  for (int section = 0; section < FUSCO_SECTIONS; section++) {
    needed = sectionEnd(needed, section, count(section));
  }
  if (needed > FUSCO_MAX_SHARD_BYTES) {
    throw Failure(FUSCO_E_LIMIT, "a shard of %llu bytes > %u", needed, FUSCO_MAX_SHARD_BYTES)
        .limited(needed, FUSCO_MAX_SHARD_BYTES);
  }
  if (needed != size) throw refused("the sections need %llu bytes, the shard has %llu", needed, size);
  uint64_t start = FUSCO_SHARD_BODY;
  for (int section = 0; section < FUSCO_SECTIONS; section++) {
    const uint32_t offset = head_[FUSCO_SECTION_TABLE / 4 + 2 * section];
    const uint64_t expected = count(section) == 0 ? 0 : start;
    if (offset != expected) throw refused("section %d starts at %u, not at %llu", section, offset, expected);
    const uint64_t next = sectionEnd(start, section, count(section));
    if (next > start) {
      const uint8_t *end = bytes + start + count(section) * uint64_t{sectionElementBytes(section)};
      if (!std::all_of(end, bytes + next, [](uint8_t byte) { return byte == 0; })) {
        throw refused("a byte after section %d is not zero", section);
      }
    }
    start = next;
  }
}

}  // namespace fusco::plan_file
