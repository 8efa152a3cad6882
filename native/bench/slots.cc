#include <algorithm>
#include <utility>
#include <vector>

#include "fusco_bench.h"
#include "guard.hpp"
#include "measure.hpp"

namespace {

// A stable counting sort, `unroll` entries at a time: the inner loops have a constant length, which compilers
// unroll.
template <uint64_t unroll>
void sortEntries(const uint16_t *entries, uint64_t count, std::vector<uint32_t> &next,
                 std::vector<uint32_t> &slots) {
  const uint64_t whole = count / unroll * unroll;
  for (uint64_t i = 0; i < whole; i += unroll) {
    for (uint64_t j = 0; j < unroll; j++) next[entries[i + j]]++;
  }
  for (uint64_t i = whole; i < count; i++) next[entries[i]]++;
  uint32_t offset = 0;
  for (uint32_t &instance : next) offset += std::exchange(instance, offset);
  for (uint64_t i = 0; i < whole; i += unroll) {
    for (uint64_t j = 0; j < unroll; j++) slots[i + j] = next[entries[i + j]]++;
  }
  for (uint64_t i = whole; i < count; i++) slots[i] = next[entries[i]]++;
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
    std::vector<uint32_t> next(instances + 1);
    std::vector<uint32_t> slots(count);
    *best = fusco::fastestOf(runs, [&] {
      std::fill(next.begin(), next.end(), 0);
      (unrolled != 0 ? sortEntries<8> : sortEntries<1>)(entries, count, next, slots);
    });
    // The last slot depends on every step, and the error keeps the compiler from dropping them.
    if (count > 0 && slots[count - 1] >= count) throw Failure(FUSCO_E_INTERNAL, "a slot beyond the entries");
  });
}
