// The tables of one-pass exchanges, made on the host from the places of tokens.
#pragma once

#include <vector>

#include "fusco.h"
#include "one_pass_plan.hpp"

namespace fusco::cuda {

// Byte offsets of the one-pass tables in one device's memory, at full capacity.
struct OnePassLayout {
  uint64_t head = 0, send, terms, arrival, arrivalRow, bytes;

  // For at most `localTokens` tokens of the ranks on the device, of which there are `locals`, and
  // `remoteTokens` of the others.
  OnePassLayout(uint64_t localTokens, uint64_t remoteTokens, uint32_t topk, uint32_t locals);
  // Tables at `memory`; `place` is the plan's own table of final slots.
  OnePassTables tables(uint8_t *memory, const Place *place, uint64_t remoteTokens) const;
};

// Writes the tables of one device.
class OnePassTableMaker {
 public:
  // Writes the head to `at`, host memory laid out as `layout` says. `tokens` [ranks]: of each rank. `isLocal`
  // [ranks]: whether it is on the device.
  OnePassTableMaker(uint32_t topk, const std::vector<uint32_t> &tokens, const std::vector<bool> &isLocal,
                    const OnePassLayout &layout, uint64_t remoteTokens, uint8_t *at);

  const OnePassHead &head() const { return *head_; }
  // Writes the tables of a local rank. Returns the number of partial sums that arrive at it in a combine.
  uint32_t addLocal(uint32_t rank, const RankPlaces &places);
  // Where to write what local rank `here` knows of remote rank `rank`: slots [tokens, topk] and landing rows
  // [tokens].
  uint32_t *arrival(uint32_t here, uint32_t rank) const;
  uint32_t *arrivalRow(uint32_t here, uint32_t rank) const;

 private:
  uint64_t capacity_;
  RankBits local_;  // on the device
  OnePassHead *head_;
  Place *send_;
  SumTerm *terms_;
  uint32_t *arrival_;
  uint32_t *arrivalRow_;
};

// Writes the tables of a device to `at`, host memory laid out as `layout` says. `deviceOf` [ranks].
// `landingRows` [ranks] becomes the number of partial sums that arrive at each rank in a combine.
void fillOnePassTables(const fusco_plan &plan, const std::vector<uint32_t> &deviceOf, uint32_t device,
                       const OnePassLayout &layout, uint64_t capacityTokens, uint8_t *at,
                       std::vector<uint32_t> &landingRows);

}  // namespace fusco::cuda
