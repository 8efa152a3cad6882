#include <algorithm>
#include <vector>

#include "fusco_bench.h"
#include "guard.hpp"
#include "measure.hpp"

namespace {

void countSimple(const uint16_t *entries, uint64_t count, uint32_t *counts) {
  for (uint64_t i = 0; i < count; i++) counts[entries[i]]++;
}

void slotsSimple(const uint16_t *entries, uint64_t count, uint32_t *next, uint32_t *slots) {
  for (uint64_t i = 0; i < count; i++) slots[i] = next[entries[i]]++;
}

// The inner loops have a constant length: compilers unroll them.
constexpr uint64_t unroll = 8;

void countUnrolled(const uint16_t *entries, uint64_t count, uint32_t *counts) {
  uint64_t i = 0;
  for (; i + unroll <= count; i += unroll) {
    for (uint64_t j = 0; j < unroll; j++) counts[entries[i + j]]++;
  }
  countSimple(entries + i, count - i, counts);
}

void slotsUnrolled(const uint16_t *entries, uint64_t count, uint32_t *next, uint32_t *slots) {
  uint64_t i = 0;
  for (; i + unroll <= count; i += unroll) {
    for (uint64_t j = 0; j < unroll; j++) slots[i + j] = next[entries[i + j]]++;
  }
  slotsSimple(entries + i, count - i, next, slots + i);
}

}  // namespace

extern "C" fusco_status fusco_bench_slots(const uint16_t *entries, uint64_t count, uint32_t instances,
                                          int unrolled, uint32_t runs, uint64_t *best, fusco_error *error) {
  using fusco::Failure;
  return fusco::guarded(error, [&] {
    if (entries == nullptr || best == nullptr || instances > UINT16_MAX || runs < 1) {
      throw Failure(FUSCO_E_OPTION, "instances must be at most 65535 and runs at least 1");
    }
    for (uint64_t i = 0; i < count; i++) {
      if (entries[i] > instances) {
        throw Failure(FUSCO_E_OPTION, "entry %llu is instance %u of %u", i, entries[i], instances);
      }
    }
    std::vector<uint32_t> counts(instances + 1);
    std::vector<uint32_t> next(instances + 1);
    std::vector<uint32_t> slots(count);
    *best = fusco::fastestOf(runs, [&] {
      std::fill(counts.begin(), counts.end(), 0);
      (unrolled != 0 ? countUnrolled : countSimple)(entries, count, counts.data());
      uint32_t offset = 0;
      for (uint32_t i = 0; i <= instances; i++) {
        next[i] = offset;
        offset += counts[i];
      }
      (unrolled != 0 ? slotsUnrolled : slotsSimple)(entries, count, next.data(), slots.data());
    });
    // The last slot depends on every step, and the error keeps the compiler from dropping them.
    if (count > 0 && slots[count - 1] >= count) throw Failure(FUSCO_E_INTERNAL, "a slot beyond the entries");
  });
}
