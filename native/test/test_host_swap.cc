// Ranks of one machine, here threads, swap bytes in host memory: native/nccl/host_swap.cc.

#include "host_swap.hpp"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "failure.hpp"
#include "structs.hpp"

namespace {

using namespace fusco;
using namespace fusco::nccl;

constexpr uint32_t ranks = 3;

std::atomic<int> failures{0};

void expect(bool right, const char *what, uint64_t which) {
  if (right) return;
  failures++;
  std::printf("wrong: %s, %llu\n", what, static_cast<unsigned long long>(which));
}

void awaitAll(const std::function<bool()> &ready) {
  while (!ready()) std::this_thread::yield();
}

fusco_nccl_call callOf(uint64_t number, uint64_t digest) {
  fusco_nccl_call call = fusco_sized<fusco_nccl_call>();
  call.number = number;
  call.digest = digest;
  return call;
}

// Bytes that rank `from` gives rank `to` in a swap: none, few, one piece, several.
uint64_t bytesOf(uint64_t swap, uint32_t from, uint32_t to) {
  constexpr uint64_t sizes[] = {0, 1, 1000, pieceBytes - 1, pieceBytes, pieceBytes + 1, 3 * pieceBytes + 5};
  return sizes[std::mt19937(static_cast<uint32_t>(swap * 64 + from * 8 + to))() % 7];
}

uint8_t byteOf(uint64_t swap, uint32_t from, uint32_t to, uint64_t at) {
  return static_cast<uint8_t>(swap * 31 + from * 7 + to * 3 + at * 5 + (at >> 8));
}

struct Rank {
  Rank(const std::string &name, uint32_t self)
      : mailbox(name, ranks, self, awaitAll), swap(mailbox, rankAt, self) {}

  const std::vector<uint32_t> rankAt{10, 11, 12};
  Mailbox mailbox;
  HostSwap swap;
};

// A message between every pair of ranks.
void swapAll(Rank &rank, uint32_t self, uint64_t number) {
  std::vector<uint8_t> sent;
  std::vector<Part> parts;
  for (uint32_t to = 0; to < ranks; to++) {
    const uint64_t begin = sent.size();
    const uint64_t bytes = bytesOf(number, self, to);
    for (uint64_t i = 0; i < bytes; i++) sent.push_back(byteOf(number, self, to, i));
    parts.push_back({begin, sent.size()});
  }
  std::vector<std::vector<uint8_t>> received(ranks);
  rank.swap.run(callOf(number, 5), sent.data(), parts, awaitAll, [&](uint32_t from, uint64_t bytes) {
    received[from].resize(bytes);
    return received[from].data();
  });
  for (uint32_t from = 0; from < ranks; from++) {
    expect(received[from].size() == bytesOf(number, from, self), "bytes of a message", number);
    for (uint64_t i = 0; i < received[from].size(); i++) {
      if (received[from][i] == byteOf(number, from, self, i)) continue;
      expect(false, "a byte of a message", i);
      break;
    }
  }
}

// The same bytes to all.
void gatherAll(Rank &rank, uint32_t self, uint64_t number) {
  const uint64_t bytes = bytesOf(number, 0, 0);
  const std::vector<uint8_t> sent(bytes, static_cast<uint8_t>(number + self));
  std::vector<uint8_t> all(ranks * bytes);
  rank.swap.run(callOf(number, 5), sent.data(), std::vector<Part>(ranks, {0, bytes}), awaitAll,
                [&](uint32_t from, uint64_t) { return all.data() + from * bytes; });
  for (uint64_t i = 0; i < all.size(); i++) {
    if (all[i] == static_cast<uint8_t>(number + i / bytes)) continue;
    expect(false, "a gathered byte", i);
    break;
  }
}

// The last rank is in another call: every other rank finds it, and it finds a rank that is not itself.
void differ(Rank &rank, uint32_t self, uint64_t number) {
  const bool isOther = self + 1 == ranks;
  const std::vector<Part> parts(ranks, {0, 1});
  const uint8_t sent = 1;
  std::vector<uint8_t> all(ranks);
  try {
    rank.swap.run(callOf(number, isOther ? 6 : 5), &sent, parts, awaitAll,
                  [&](uint32_t from, uint64_t) { return &all[from]; });
    expect(false, "a swap with another call", self);
  } catch (const Failure &failure) {
    expect(failure.error.status == FUSCO_E_PEER_MISMATCH, "status", failure.error.status);
    expect(isOther ? failure.error.rank < 12 : failure.error.rank == 12, "rank of the error", self);
  }
}

}  // namespace

int main() {
  const std::string name = "/fusco-swap-" + std::to_string(getpid());
  std::vector<std::thread> threads;
  for (uint32_t self = 0; self < ranks; self++) {
    threads.emplace_back([&, self] {
      Rank rank(name, self);
      for (uint64_t number = 2; number < 42; number++) {
        if (number % 2 == 0)
          swapAll(rank, self, number);
        else
          gatherAll(rank, self, number);
      }
      differ(rank, self, 42);
    });
  }
  for (std::thread &thread : threads) thread.join();
  return failures == 0 ? 0 : 1;
}
