// How long the slices of a round are: figures by hand, and rules over a sweep of sizes.
//
// Test of sliceRowsFor and makeRounds of native/nccl/rounds.cc; test_wire.cc runs whole plans over them.

#include "rounds.hpp"

#include <cstdio>
#include <initializer_list>

namespace {

using namespace fusco::nccl;

constexpr uint64_t mib = 1 << 20;
constexpr uint32_t mostRows = 0x7fffffff;  // of a receive buffer, and so between two ranks
constexpr uint32_t mostRounds = 4;

int failures = 0;

void expect(bool right, const char *what, const SliceRule &rule, uint32_t ranks, uint64_t rowBytes) {
  if (right) return;
  if (failures++ >= 10) return;
  std::printf(
      "%s: slices of %u rows, %u rows, rounds of %llu bytes, %u peers a round, %u ranks, %llu a row\n", what,
      rule.planRows, rule.mostRows, static_cast<unsigned long long>(rule.roundBytes), rule.peersPerRound,
      ranks, static_cast<unsigned long long>(rowBytes));
}

uint64_t ceilOf(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

// Blocks of peers that share a round.
uint64_t blocksOf(const SliceRule &rule, uint32_t ranks) {
  return ranks < 2 ? 1 : ceilOf(ranks - 1, rule.peersPerRound);
}

void compare(const SliceRule &rule, uint32_t ranks, uint64_t rowBytes, uint32_t wanted) {
  const uint32_t found = sliceRowsFor(rule, ranks, rowBytes);
  if (found == wanted) return;
  std::printf("%u rows a slice, not %u\n", found, wanted);
  expect(false, "by hand", rule, ranks, rowBytes);
}

void byHand() {
  // 4096 rows of 14 KiB are 56 MiB: one round of 32 MiB and more, whole slices of 73 rows.
  compare({73, 4096, 32 * mib, 8}, 4, 14336, 57 * 73);
  // 16384 rows, 224 MiB: seven times 32 MiB, but at most four rounds; 4096 rows are 57 slices.
  compare({73, 16384, 32 * mib, 8}, 4, 14336, 57 * 73);
  // Twelve peers are two blocks of eight or fewer: two slices of 8192 rows, 113 slices.
  compare({73, 16384, 32 * mib, 8}, 13, 14336, 113 * 73);
  // 64 ranks are eight blocks, more than four rounds already: everything at once.
  compare({73, 16384, 32 * mib, 8}, 64, 14336, 225 * 73);
  // Nothing to send, and a group of one rank: a slice of the plan.
  compare({73, 0, 32 * mib, 8}, 4, 14336, 73);
  compare({73, 0, 32 * mib, 8}, 1, 14336, 73);
  // The limits: neither the rows nor their bytes overflow.
  compare({1, mostRows, 1, 8}, 2, uint64_t{60} << 24, ceilOf(mostRows, mostRounds));
  compare({mostRows, mostRows, uint64_t{1} << 40, 8}, 4096, uint64_t{60} << 24, mostRows);
  compare({mostRows - 1, mostRows, uint64_t{1} << 40, 8}, 4096, 1, 2 * (mostRows - 1));
}

void checkRules(const SliceRule &rule, uint32_t ranks, uint64_t rowBytes) {
  const uint32_t rows = sliceRowsFor(rule, ranks, rowBytes);
  expect(rows > 0, "no rows", rule, ranks, rowBytes);
  if (rows == 0) return;
  expect(rows % rule.planRows == 0, "half a slice of the plan", rule, ranks, rowBytes);
  const uint64_t slicesPerPeer = ceilOf(rule.mostRows, rows);
  const uint64_t blocks = blocksOf(rule, ranks);
  expect(slicesPerPeer <= 1 || slicesPerPeer * blocks <= mostRounds, "many rounds", rule, ranks, rowBytes);
  expect(slicesPerPeer <= 1 || uint64_t{rows} * rowBytes >= rule.roundBytes, "a short round", rule, ranks,
         rowBytes);
  // Longer rows make no longer slices, longer rounds no shorter ones.
  expect(sliceRowsFor(rule, ranks, 2 * rowBytes) <= rows, "longer rows", rule, ranks, rowBytes);
  SliceRule longer = rule;
  longer.roundBytes *= 2;
  expect(sliceRowsFor(longer, ranks, rowBytes) >= rows, "longer rounds", rule, ranks, rowBytes);
  SliceRule more = rule;
  more.mostRows = rule.mostRows > mostRows / 2 ? mostRows : 2 * rule.mostRows;
  const uint64_t moreSlices = ceilOf(more.mostRows, sliceRowsFor(more, ranks, rowBytes));
  expect(moreSlices * blocks <= mostRounds || moreSlices <= 1, "more rows", rule, ranks, rowBytes);
}

// The rounds of a rank that sends the most to every peer are as many as the rule allows.
void checkRounds(const SliceRule &rule, uint32_t ranks, uint64_t rowBytes) {
  // A rank has no more rows than that in all.
  if (uint64_t{ranks - 1} * rule.mostRows > mostRows) return;
  SendOrder sendOrder(ranks);
  for (uint32_t peer = 1; peer < ranks; peer++) sendOrder.append(peer, {0, rule.mostRows});
  sendOrder.close();
  const uint32_t rows = sliceRowsFor(rule, ranks, rowBytes);
  const auto rounds = makeRounds(0, sendOrder, sendOrder, rows, rule.peersPerRound);
  const uint64_t wanted = ranks < 2 ? 0 : ceilOf(rule.mostRows, rows) * blocksOf(rule, ranks);
  expect(rounds.size() == wanted, "rounds", rule, ranks, rowBytes);
  uint64_t sent = 0;
  for (const Round &round : rounds) sent += round.sendRows;
  expect(sent == uint64_t{ranks - 1} * rule.mostRows, "rows in rounds", rule, ranks, rowBytes);
}

void sweep() {
  for (const uint32_t ranks : {1u, 2u, 3u, 8u, 9u, 10u, 17u, 33u, 34u, 64u, 4096u}) {
    for (const uint32_t planRows : {1u, 7u, 73u, 1u << 20}) {
      for (const uint32_t rows : {0u, 1u, 6u, 7u, 8u, 1000u, 4096u, 1u << 22, mostRows}) {
        for (const uint64_t roundBytes : {uint64_t{1}, uint64_t{4096}, 32 * mib, uint64_t{1} << 40}) {
          for (const uint64_t rowBytes : {uint64_t{1}, uint64_t{14336}, uint64_t{16} << 20}) {
            for (const uint32_t peers : {1u, 3u, 8u}) {
              const SliceRule rule{planRows, rows, roundBytes, peers};
              checkRules(rule, ranks, rowBytes);
              checkRounds(rule, ranks, rowBytes);
            }
          }
        }
      }
    }
  }
}

void runsAreCut() {
  const SliceRule rule{73, 16384, 32 * mib, 8};
  // 224 MiB: seven runs are 32 MiB each on average, eight are less.
  expect(cutsAtRuns(rule, 7, 14336), "7 runs", rule, 4, 14336);
  expect(!cutsAtRuns(rule, 8, 14336), "8 runs", rule, 4, 14336);
  // One run has no ends inside, however short it is.
  expect(cutsAtRuns(rule, 1, 1) && cutsAtRuns(rule, 0, 1), "one run", rule, 4, 1);
  // Above 64 MiB a run is long, whatever a round is.
  const SliceRule longer{73, 16384, uint64_t{1} << 40, 8};
  expect(cutsAtRuns(longer, 3, 14336), "3 runs", longer, 4, 14336);
  expect(!cutsAtRuns(longer, 4, 14336), "4 runs", longer, 4, 14336);
}

}  // namespace

int main() {
  byHand();
  sweep();
  runsAreCut();
  std::printf(failures == 0 ? "right\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
