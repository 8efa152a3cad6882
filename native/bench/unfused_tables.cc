#include "unfused_tables.hpp"

#include <algorithm>
#include <tuple>

namespace fusco {

UnfusedTables::UnfusedTables(const fusco_plan &plan) {
  struct Row {
    uint32_t source;
    uint64_t entry;
    Place place;
  };
  std::vector<Row> rows;
  std::vector<uint64_t> arrivals(plan.ranks + 1, 0);
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    const std::vector<Place> &places = plan.rank[rank].places;
    firstEntry.push_back(packedAt.size());
    packedAt.resize(packedAt.size() + places.size(), Place{0, -1});
    for (size_t entry = 0; entry < places.size(); entry++) {
      if (places[entry].row < 0) continue;
      rows.push_back({rank, entry, places[entry]});
      arrivals[places[entry].peer + 1]++;
    }
  }
  std::sort(rows.begin(), rows.end(), [](const Row &a, const Row &b) {
    return std::tie(a.source, a.place.peer, a.place.row) < std::tie(b.source, b.place.peer, b.place.row);
  });
  // From rows of each destination to its first arrival, and from there on to its next one.
  for (uint32_t rank = 0; rank < plan.ranks; rank++) arrivals[rank + 1] += arrivals[rank];
  slot.resize(rows.size());
  for (const Row &row : rows) {
    const uint64_t packed = source.size();
    const uint64_t arrived = arrivals[row.place.peer]++;
    const bool continues =
        packed > 0 && rows[packed - 1].source == row.source && rows[packed - 1].place.peer == row.place.peer;
    if (!continues) blocks.push_back({packed, arrived, 0});
    blocks.back().rows++;
    source.push_back({row.source, static_cast<int32_t>(row.entry / plan.topk)});
    slot[arrived] = row.place;
    packedAt[firstEntry[row.source] + row.entry] = {0, static_cast<int32_t>(packed)};
  }
}

}  // namespace fusco
