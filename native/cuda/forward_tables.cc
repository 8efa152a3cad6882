#include "forward_tables.hpp"

namespace fusco::cuda {

namespace {

class ForwardTableMaker {
 public:
  ForwardTableMaker(const CheckedPlan &checked, const uint16_t *groups)
      : plan_(*checked.plan), shards_(checked.shards), groups_(groups), landingUsed_(plan_.ranks) {
    tables_.firstHop.resize(plan_.ranks);
    tables_.landed.resize(plan_.ranks);
    tables_.places.resize(plan_.ranks);
    tables_.landingRows.assign(plan_.ranks, 0);
  }

  ForwardTables make() {
    for (uint32_t rank = 0; rank < plan_.ranks; rank++) {
      if (shards_[rank].word(FUSCO_W_STAGE_ROWS) > FUSCO_MAX_ROWS)
        throw shards_[rank].badForward("has too many landing rows", 0);
    }
    for (uint32_t rank = 0; rank < plan_.ranks; rank++) addRank(rank);
    return std::move(tables_);
  }

 private:
  void addRank(uint32_t rank) {
    const std::vector<Place> &places = plan_.rank[rank].places;
    const ForwardedRows rows = shards_[rank].forwardedRows(plan_.ranksPerNode, places);
    std::vector<Place> &firstHop = tables_.firstHop[rank];
    firstHop = places;
    for (const uint32_t entry : rows.entry) firstHop[entry].row = FUSCO_SLOT_MASKED;
    size_t row = 0;
    for (uint32_t node = 0; node < rows.rowsOfNode.size(); node++) {
      const uint32_t forwarder = forwarderOf(groups_, plan_.ranksPerNode, rank, node);
      for (const size_t end = row + rows.rowsOfNode[node]; row < end; row++) {
        const Place at = landingOf(rank, forwarder, rows.target[row], row);
        Landed landed = {at, static_cast<uint32_t>(tables_.places[forwarder].size()), 0};
        bool lands = rows.target[row] < 0;
        for (uint32_t e = rows.offset[row]; e < rows.offset[row + 1]; e++) {
          const Place &place = places[rows.entry[e]];
          if (place.peer == at.peer && place.row == at.row) {
            lands = true;
          } else {
            tables_.places[forwarder].push_back(place);
            landed.places++;
          }
        }
        if (!lands) throw shards_[rank].badForward("lands in a slot of another", row);
        firstHop[rows.entry[rows.offset[row]]] = at;
        if (landed.places > 0) tables_.landed[forwarder].push_back(landed);
      }
    }
  }

  // A slot of the forwarder, or a landing row that no other row uses.
  Place landingOf(uint32_t rank, uint32_t forwarder, int32_t target, size_t row) {
    if (target >= 0) return {forwarder, target};
    const int32_t landingRow = ~target;
    const uint32_t rows = shards_[forwarder].word(FUSCO_W_STAGE_ROWS);
    if (static_cast<uint32_t>(landingRow) >= rows)
      throw shards_[rank].badForward("is behind the last landing row", row);
    std::vector<bool> &used = landingUsed_[forwarder];
    if (used.empty()) used.assign(rows, false);
    if (used[landingRow]) throw shards_[rank].badForward("lands in the landing row of another", row);
    used[landingRow] = true;
    tables_.landingRows[forwarder] = rows;
    return {maxRanks + forwarder, landingRow};
  }

  const fusco_plan &plan_;
  const std::vector<CheckedShard> &shards_;
  const uint16_t *groups_;
  std::vector<std::vector<bool>> landingUsed_;
  ForwardTables tables_;
};

}  // namespace

ForwardTables makeForwardTables(const CheckedPlan &checked, const uint16_t *groups) {
  return ForwardTableMaker(checked, groups).make();
}

}  // namespace fusco::cuda
