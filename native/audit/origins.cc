#include "origins.hpp"

#include <algorithm>

namespace fusco::audit {

namespace {

// Calls use(block, origin) for each row of the rank, by source, token and k.
template <class Use>
void eachRow(const Entries &entries, const fusco_audit_layout &layout, uint32_t rank, Use use) {
  const planning::Spec &spec = entries.spec();
  const uint32_t firstInstance = spec.placement.rankFirst[rank];
  for (uint32_t source = 0; source < spec.ranks; source++) {
    for (uint32_t token = 0; token < entries.tokens(source); token++) {
      for (uint32_t k = 0; k < spec.topk; k++) {
        const uint16_t instance = entries.instance(source, uint64_t{token} * spec.topk + k);
        if (instance == noInstance || entries.rankOf(instance) != rank) continue;
        const uint32_t block = layout.blocks == FUSCO_AUDIT_BLOCKS_EXPERT   ? instance - firstInstance
                               : layout.blocks == FUSCO_AUDIT_BLOCKS_SOURCE ? source
                                                                            : 0;
        const bool isWhole = layout.per == FUSCO_PER_TOKEN;
        use(block, Origin{static_cast<int32_t>(source), static_cast<int32_t>(token),
                          isWhole ? -1 : static_cast<int32_t>(k)});
        if (isWhole) break;
      }
    }
  }
}

uint32_t blocksOf(const Entries &entries, const fusco_audit_layout &layout, uint32_t rank) {
  const planning::Spec &spec = entries.spec();
  if (layout.blocks == FUSCO_AUDIT_BLOCKS_SOURCE) return spec.ranks;
  if (layout.blocks == FUSCO_AUDIT_BLOCKS_ONE) return 1;
  return spec.placement.rankFirst[rank + 1] - spec.placement.rankFirst[rank];
}

// Slots of every block; 0: as many as it needs.
uint64_t slotsOf(const fusco_audit_layout &layout, const std::vector<Block> &blocks, uint32_t rank,
                 std::optional<uint64_t> given) {
  if (layout.slots != FUSCO_AUDIT_SLOTS_EQUAL || blocks.empty()) return layout.slots;
  if (given.has_value()) {
    if (*given % blocks.size() == 0) return *given / blocks.size();
    throw Failure(FUSCO_E_BUFFER, "rank %u: %llu rows are not %zu blocks of equal size", rank, *given,
                  blocks.size())
        .atRank(rank)
        .limited(*given, blocks.size());
  }
  uint64_t most = 0;
  for (const Block &block : blocks) most = std::max<uint64_t>(most, block.count);
  return most;
}

}  // namespace

RankOrigins originsOf(const Entries &entries, const fusco_audit_layout &layout, uint32_t rank,
                      std::optional<uint64_t> given) {
  if (rank >= entries.ranks()) {
    throw Failure(FUSCO_E_OPTION, "rank %u: there are %u ranks", rank, entries.ranks())
        .limited(rank, entries.ranks());
  }
  RankOrigins origins;
  origins.blocks.resize(blocksOf(entries, layout, rank));
  eachRow(entries, layout, rank, [&](uint32_t block, const Origin &) { origins.blocks[block].count++; });
  const bool isEqual = layout.slots == FUSCO_AUDIT_SLOTS_EQUAL;
  const uint64_t slots = slotsOf(layout, origins.blocks, rank, given);
  const uint64_t align = layout.align == 0 ? entries.spec().align : layout.align;
  size_t first = 0;
  for (size_t i = 0; i < origins.blocks.size(); i++) {
    Block &block = origins.blocks[i];
    const bool isFixed = isEqual || slots != 0;
    if (isFixed && block.count > slots) {
      throw Failure(FUSCO_E_LIMIT, "rank %u: block %zu has %zu rows > %llu slots", rank, i, block.count,
                    slots)
          .atRank(rank)
          .limited(block.count, slots);
    }
    block.begin = origins.end;
    block.slots = isFixed ? slots : (block.count + align - 1) / align * align;
    block.first = first;
    first += block.count;
    origins.end += block.slots;
  }
  origins.rows.resize(first);
  std::vector<size_t> next;
  for (const Block &block : origins.blocks) next.push_back(block.first);
  eachRow(entries, layout, rank,
          [&](uint32_t block, const Origin &origin) { origins.rows[next[block]++] = origin; });
  return origins;
}

}  // namespace fusco::audit
