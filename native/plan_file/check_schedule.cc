// Slices divide a send order; the order of stores in tiles holds each entry once.

#include "checks.hpp"

namespace fusco::plan_file {

namespace {

// `rows` [peers]: each peer's part of the send order. Otherwise as Slices.
void checkSlices(std::span<const uint32_t> slices, uint32_t rank, const char *name,
                 const std::vector<uint64_t> &rows, uint32_t local, uint32_t first, uint32_t sliceRows) {
  std::vector<uint64_t> starts;
  std::vector<uint32_t> peers;
  uint64_t row = 0;
  const auto count = static_cast<uint32_t>(rows.size());
  for (uint32_t i = 0; i < count; i++) {
    starts.push_back(row);
    row += rows[i];
    peers.push_back((local + i) % count);
  }
  const std::string path = std::string("/") + name;
  size_t at = 0;
  for (uint64_t done = 0;; done += sliceRows) {
    // Only peers with rows left take part in a round, so that the work is that of the slices.
    std::erase_if(peers, [&](uint32_t peer) { return rows[peer] <= done; });
    if (peers.empty()) break;
    for (const uint32_t peer : peers) {
      const uint64_t wanted[] = {first + peer, starts[peer] + done,
                                 std::min<uint64_t>(rows[peer] - done, sliceRows)};
      const bool isSame = at + FUSCO_SLICE_WORDS <= slices.size() &&
                          std::equal(std::begin(wanted), std::end(wanted), slices.begin() + at);
      if (!isSame) {
        throw defect(FUSCO_E_SLICE, rank, path + "/" + std::to_string(at / FUSCO_SLICE_WORDS),
                     "peer,row,rows is not %llu,%llu,%llu", wanted[0], wanted[1], wanted[2]);
      }
      at += FUSCO_SLICE_WORDS;
    }
  }
  if (at == slices.size()) return;
  throw defect(FUSCO_E_SLICE, rank, path, "%llu slices, not %llu",
               uint64_t{slices.size() / FUSCO_SLICE_WORDS}, uint64_t{at / FUSCO_SLICE_WORDS});
}

}  // namespace

void checkDirectSlices(const Plan &plan, uint32_t rank) {
  const Spec &spec = plan.spec;
  const auto sendRows = plan.shards[rank].section(FUSCO_S_SEND_ROWS);
  const planning::DirectRange direct = planning::directRange(spec, spec.isFlat(), rank);
  std::vector<uint64_t> rows(direct.endRank - direct.firstRank);
  for (uint32_t i = direct.first; i < direct.end; i++) {
    rows[spec.placement.instanceRank[i] - direct.firstRank] += sendRows[i];
  }
  checkSlices(plan.shards[rank].section(FUSCO_S_SLICE), rank, "slices", rows, rank - direct.firstRank,
              direct.firstRank, spec.sliceRows);
}

void checkForwardSlices(const Plan &plan, uint32_t rank) {
  const auto forwardRows = plan.shards[rank].section(FUSCO_S_FORWARD_ROWS);
  checkSlices(plan.shards[rank].section(FUSCO_S_FORWARD_SLICE), rank, "forwardSlices",
              {forwardRows.begin(), forwardRows.end()}, plan.spec.nodeOf(rank), 0, plan.spec.sliceRows);
}

void checkTileOrder(const Plan &plan, uint32_t rank) {
  const ShardView &shard = plan.shards[rank];
  const auto order = shard.section<uint8_t>(FUSCO_S_TILE_ORDER);
  const auto slots = shard.section<int32_t>(FUSCO_S_ENTRY_SLOT);
  const auto instances = shard.section<uint16_t>(FUSCO_S_ENTRY_INSTANCE);
  const size_t tile = size_t{plan.spec.tileTokens} * plan.spec.topk;
  if (tile == 0) return;
  const auto isBefore = [&](size_t a, size_t b) {
    if (slots[a] < 0 || slots[b] < 0) return slots[a] >= 0 || (slots[b] < 0 && a < b);
    return instances[a] < instances[b] || (instances[a] == instances[b] && slots[a] < slots[b]);
  };
  for (size_t first = 0; first < order.size(); first += tile) {
    const size_t count = std::min(tile, order.size() - first);
    for (size_t i = 0; i < count; i++) {
      const size_t at = order[first + i];
      // Entries differ, so an order that rises strictly holds each of them at most once, and so exactly once.
      if (at < count && (i == 0 || isBefore(first + order[first + i - 1], first + at))) continue;
      throw defect(FUSCO_E_STREAM, rank, place("tileOrder", first + i),
                   "entry %llu of the tile is out of order", uint64_t{at});
    }
  }
}

}  // namespace fusco::plan_file
