// A layout expanded for one rank: which row of its receive buffer holds which row of which source.
#pragma once

#include <optional>

#include "entries.hpp"
#include "fusco_audit.h"

namespace fusco::audit {

struct Origin {
  int32_t source;
  int32_t token;
  int32_t k;  // -1: all of the token on this rank

  bool operator==(const Origin &) const = default;
};

// A block of a receive buffer: rows [begin, begin + slots), of which the first `count` belong to tokens.
struct Block {
  uint64_t begin;
  uint64_t slots;
  size_t first;  // in RankOrigins.rows
  size_t count;
};

struct RankOrigins {
  std::vector<Origin> rows;   // block by block, each by source, token and k
  std::vector<Block> blocks;  // ascending
  uint64_t end = 0;           // rows of all blocks

  const Origin *of(const Block &block) const { return rows.data() + block.first; }
};

// `given`: rows of the buffer, which blocks of equal size divide; absent: the fewest that suffice. Throws
// E_OPTION without such a rank, E_LIMIT if a block has too few slots, E_BUFFER if `given` cannot be divided.
RankOrigins originsOf(const Entries &entries, const fusco_audit_layout &layout, uint32_t rank,
                      std::optional<uint64_t> given = std::nullopt);

}  // namespace fusco::audit
