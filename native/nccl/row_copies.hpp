// Rows that cross to a rank of the machine once: they arrive in the lowest of their slots there, and that
// rank copies them to the others. No CUDA and no NCCL.
#pragma once

#include <cstdint>
#include <vector>

#include "rank_places.hpp"

namespace fusco::nccl {

struct Landing;

// What a rank tells each of its neighbors: for each row that has several slots there, the slot in which it
// arrives, with isLanding, and then its other slots.
using ToldCopies = std::vector<std::vector<uint32_t>>;  // [neighbors]

// Of the `count` places of one row, keeps the lowest at each neighbor. The others become FUSCO_SLOT_MASKED
// and go to `told` [neighbors]. All places at `self` stay: rows there are not sent.
void keepLowest(Place *places, uint32_t count, uint32_t self, ToldCopies &told);

// The same for every row that this rank forwards. Returns the places that are left.
Landing keepLowest(const Landing &landing, uint32_t self, ToldCopies &told);

// The copies that a rank makes in its own receive buffer: row i from slot from[i] to the slots of places
// [offset[i], offset[i + 1]).
struct RowCopies {
  std::vector<uint32_t> from;
  std::vector<uint32_t> offset{0};
  std::vector<Place> places;

  // Adds what rank `source` told this rank, which is neighbor `self` and receives isTaken.size() rows.
  // `isTaken` [received rows]: slots of copies that are known. Throws E_PEER_MISMATCH for what keepLowest()
  // cannot have told.
  void add(uint32_t source, const uint32_t *told, uint64_t words, uint32_t self, std::vector<bool> &isTaken);
  uint32_t rows() const { return static_cast<uint32_t>(from.size()); }
};

}  // namespace fusco::nccl
