#include "shard.hpp"

#include <cstring>

#include "failure.hpp"

namespace fusco {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards are read in place as little-endian words");

uint32_t sectionElementBytes(int section) {
  if (section == FUSCO_S_ENTRY_INSTANCE) return 2;
  return section == FUSCO_S_TILE_ORDER ? 1 : 4;
}

uint64_t sectionEnd(uint64_t start, int section, uint64_t elements) {
  const uint64_t end = start + elements * sectionElementBytes(section);
  return (end + FUSCO_SECTION_ALIGN - 1) / FUSCO_SECTION_ALIGN * FUSCO_SECTION_ALIGN;
}

ShardReader::ShardReader(const fusco_buffer &shard, uint32_t rank, uint32_t ranks)
    : rank_(rank), bytes_(static_cast<const uint8_t *>(shard.data)) {
  if (bytes_ == nullptr || shard.bytes < FUSCO_SHARD_BODY) {
    const uint64_t given = bytes_ == nullptr ? 0 : shard.bytes;
    throw refused(FUSCO_E_SHARD_LAYOUT, "the shard of rank %u has %llu bytes, its head needs %d", rank, given,
                  FUSCO_SHARD_BODY)
        .limited(given, FUSCO_SHARD_BODY)
        .at("/ranks/%u", rank);
  }
  std::memcpy(words_, bytes_, sizeof words_);
  if (words_[FUSCO_W_MAGIC] != FUSCO_SHARD_MAGIC) {
    throw refused(FUSCO_E_SHARD_LAYOUT, "the shard of rank %u does not start with FSHD", rank)
        .at("/ranks/%u", rank);
  }
  checkSections(shard.bytes);
  checkHead(ranks);
}

void ShardReader::checkSections(uint64_t size) {
  uint64_t end = FUSCO_SHARD_BODY;
  for (int section = 0; section < FUSCO_SECTIONS; section++) {
    uint32_t entry[2];
    std::memcpy(entry, bytes_ + FUSCO_SECTION_TABLE + 8 * section, sizeof entry);
    offsets_[section] = entry[0];
    counts_[section] = entry[1];
    const uint64_t expected = counts_[section] == 0 ? 0 : end;
    end = sectionEnd(end, section, counts_[section]);
    if (offsets_[section] != expected || end > size) {
      throw refused(FUSCO_E_SHARD_LAYOUT, "section %d of rank %u: offset %u with %u elements in %llu bytes",
                    section, rank_, offsets_[section], counts_[section], size)
          .limited(end, size)
          .at("/ranks/%u/sections/%d", rank_, section);
    }
  }
  if (end != size) {
    throw refused(FUSCO_E_SHARD_LAYOUT, "the sections of rank %u need %llu bytes, the shard has %llu", rank_,
                  end, size)
        .limited(end, size)
        .at("/ranks/%u", rank_);
  }
}

void ShardReader::expectCount(int section, uint64_t expected) const {
  if (counts_[section] == expected) return;
  throw refused(FUSCO_E_SHARD_HEAD, "section %d of rank %u has %u elements, the head says %llu", section,
                rank_, counts_[section], expected)
      .limited(counts_[section], expected)
      .at("/ranks/%u/sections/%d", rank_, section);
}

void ShardReader::checkHead(uint32_t ranks) const {
  if (words_[FUSCO_W_RANK] != rank_ || words_[FUSCO_W_RANKS] != ranks) {
    throw refused(FUSCO_E_RANKS, "shard %u says rank %u of %u in a group of %u", rank_, words_[FUSCO_W_RANK],
                  words_[FUSCO_W_RANKS], ranks)
        .at("/ranks/%u", rank_);
  }
  const uint32_t topk = words_[FUSCO_W_TOPK];
  if (topk < 1 || topk > FUSCO_MAX_TOPK) {
    throw refused(FUSCO_E_SHARD_HEAD, "rank %u: topk %u is outside 1..%d", rank_, topk, FUSCO_MAX_TOPK)
        .limited(topk, FUSCO_MAX_TOPK)
        .at("/ranks/%u/topk", rank_);
  }
  if (words_[FUSCO_W_RECV_ROWS] > FUSCO_MAX_ROWS || entries() > FUSCO_MAX_ROWS) {
    throw refused(FUSCO_E_LIMIT, "rank %u: %u receive rows, %llu entries; the limit is %d", rank_,
                  words_[FUSCO_W_RECV_ROWS], entries(), FUSCO_MAX_ROWS)
        .limited(entries(), FUSCO_MAX_ROWS);
  }
  expectCount(FUSCO_S_ENTRY_SLOT, entries());
  expectCount(FUSCO_S_ENTRY_INSTANCE, entries());
  expectCount(FUSCO_S_EXPERT_ROWS, words_[FUSCO_W_LOCAL_INSTANCES]);
  expectCount(FUSCO_S_EXPERT_OFFSET, uint64_t{words_[FUSCO_W_LOCAL_INSTANCES]} + 1);
}

void ShardReader::copyOut(int section, void *to, size_t bytes) const {
  if (bytes > 0) std::memcpy(to, bytes_ + offsets_[section], bytes);
}

}  // namespace fusco
