// What a wait for other devices names when it fails, and what it tells them: the device code of signals, with
// the memory of three devices of which the test plays all but one.

#include "block_emulator.hpp"

#include "edges_device.cuh"

#include "listed.hpp"
#include "plans.h"

using namespace fusco;
using namespace fusco::cuda;

namespace {

constexpr uint32_t devices = 3;
constexpr uint32_t threads = 32;
constexpr uint32_t epoch = 7;
constexpr uint64_t digest = 0x1234;
constexpr uint64_t deadline = 2'000'000;  // nanoseconds

// All devices have completed call 6.
struct Machine {
  DeviceSignals signals[devices] = {};
  WaitFailure failure[devices] = {};
  uint32_t chunkFlag = epoch - 1;

  Machine() {
    for (DeviceSignals &of : signals) of.control.epoch = epoch - 1;
  }

  OnePassCommon common(uint32_t device) {
    OnePassCommon c{};
    c.control = &signals[device].control;
    c.failure = &failure[device];
    c.deadlineNs = deadline;
    c.digest = digest;
    c.device = device;
    c.devices = devices;
    c.hasProcesses = 1;
    for (uint32_t i = 0; i < devices; i++) c.inbox[i] = &signals[i].inbox;
    return c;
  }

  // Device `from` is ready for a call with this digest.
  void tellAll(uint32_t from, uint64_t of = digest) {
    OnePassCommon c = common(from);
    c.digest = of;
    for (uint32_t device = 0; device < devices; device++) {
      if (device != from) tellReady(c, epoch, device, nullptr);
    }
  }

  bool awaitChunkOf(uint32_t peer, uint32_t at) { return awaitFlag(common(at), &chunkFlag, epoch, peer); }

  bool names(uint32_t device, FailureCode code, uint64_t culprits) const {
    const WaitFailure &of = failure[device];
    return codeOf(of) == code && of.epoch == epoch && of.culprits.bits == culprits && of.digest == digest;
  }
  // What `device` was told by `from`.
  bool isTold(uint32_t device, uint32_t from, FailureCode code, uint64_t culprits) const {
    const Inbox &inbox = signals[device].inbox;
    return inbox.poison == (code << 16 | from) && inbox.culprits[from].bits == culprits;
  }
};

// Device 1 is ready, but its rows do not come, since it waits for device 2.
void testPeerThatWaits() {
  Machine machine;
  machine.tellAll(1);
  CHECK(!machine.awaitChunkOf(1, 0));
  CHECK(machine.names(0, failureTimeout, 0b100));
  CHECK(machine.isTold(1, 0, failureTimeout, 0b100));
  CHECK(machine.isTold(2, 0, failureTimeout, 0b100));
  // Device 1 adopts that, with the same culprits, and does not tell its own over what is told already.
  CHECK(!machine.awaitChunkOf(0, 1));
  CHECK(machine.names(1, failureTimeout, 0b100));
  CHECK(machine.isTold(0, 1, failureTimeout, 0b100));
  CHECK(machine.isTold(2, 0, failureTimeout, 0b100));
  // The late device comes, and learns that it was late.
  CHECK(!awaitPeer(machine.common(2), epoch, 0));
  CHECK(machine.names(2, failureTimeout, 0b100));
}

void testAllLate() {
  Machine machine;
  CHECK(!awaitPeer(machine.common(0), epoch, 1));
  CHECK(machine.names(0, failureTimeout, 0b110));
  CHECK(machine.isTold(1, 0, failureTimeout, 0b110));
}

void testPeerThatStops() {
  Machine machine;
  machine.tellAll(1);
  machine.tellAll(2);
  CHECK(!machine.awaitChunkOf(2, 0));
  CHECK(machine.names(0, failureTimeout, 0b100));
}

// Waits of device 0 at the end of a call for which all are ready.
void endCall(Machine &machine) {
  machine.tellAll(1);
  machine.tellAll(2);
  const OnePassCommon c = machine.common(0);
  emulated::Block(threads, 1, [&] { endEdgeAt(c, epoch, threadIdx.x); }).run();
}

void testEnd() {
  Machine machine;
  endCall(machine);
  CHECK(machine.names(0, failureTimeout, 0b110));

  Machine other;
  other.signals[0].inbox.done[1] = epoch;
  endCall(other);
  CHECK(other.names(0, failureTimeout, 0b100));

  Machine whole;
  for (const uint32_t device : {1u, 2u}) whole.signals[0].inbox.done[device] = epoch;
  endCall(whole);
  CHECK(codeOf(whole.failure[0]) == failureNone && whole.signals[0].control.epoch == epoch);
  CHECK(whole.signals[1].inbox.done[0] == epoch && whole.signals[1].inbox.poison == 0);
}

void testMismatch() {
  Machine machine;
  machine.tellAll(1);
  machine.tellAll(2, digest + 1);
  CHECK(!machine.awaitChunkOf(1, 0));
  CHECK(machine.names(0, failureMismatch, 0b100));
  CHECK(machine.isTold(1, 0, failureMismatch, 0b100));
}

// The host of device 0 ends its waits.
void testAbort() {
  Machine machine;
  machine.tellAll(1);
  machine.signals[0].inbox.poison = failureAborted << 16 | 0;
  CHECK(!machine.awaitChunkOf(1, 0));
  CHECK(machine.names(0, failureAborted, 0));
  CHECK(machine.isTold(1, 0, failureAborted, 0));
}

// Two devices tell at the same time: what remains are the culprits of the one that `poison` names.
void testTwoTell() {
  Machine machine;
  machine.signals[0].inbox.culprits[1].add(0);
  machine.signals[0].inbox.culprits[2].add(1);
  machine.signals[0].inbox.poison = failureTimeout << 16 | 2;
  CHECK(!machine.awaitChunkOf(1, 0));
  CHECK(machine.names(0, failureTimeout, 0b010));
}

void testNoFailure() {
  Machine machine;
  machine.tellAll(1);
  machine.chunkFlag = epoch;
  CHECK(machine.awaitChunkOf(1, 0));
  CHECK(awaitPeer(machine.common(0), epoch, 1));
  CHECK(codeOf(machine.failure[0]) == failureNone);
}

void testListed() {
  CHECK(listed("rank", {2}) == "rank 2");
  CHECK(listed("rank", {1, 2}) == "ranks 1 and 2");
  CHECK(listed("device", {0, 3, 5}) == "devices 0, 3 and 5");
  std::vector<uint32_t> many(18);
  std::iota(many.begin(), many.end(), 10);
  CHECK(listed("rank", many) ==
        "ranks 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25 and 2 more");
}

}  // namespace

int main() {
  testPeerThatWaits();
  testAllLate();
  testPeerThatStops();
  testEnd();
  testMismatch();
  testAbort();
  testTwoTell();
  testNoFailure();
  testListed();
  return 0;
}
