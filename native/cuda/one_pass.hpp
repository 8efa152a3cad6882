// One-pass exchanges between GPUs of one host, of one process or of several. In a dispatch a row crosses a
// link once per destination rank: it lands in the lowest of its slots there, and the destination copies it to
// the other slots while later rows arrive. In a combine with one rank per node each rank adds the rows of a
// token that it has and sends one partial sum.
//
// One launch per device and call serves all ranks of that device. "Local" means on this device, "remote" on
// another. Where every rank is a process, devices are numbered as ranks are.
#pragma once

#include "access_unit.hpp"
#include "exchange_launch.hpp"
#include "rank_places.hpp"
#include "signals.hpp"

namespace fusco::cuda {

// Entries of a chunk at most.
constexpr uint32_t maxChunkEntries = 256;
// Bytes of a row that one work item moves, or adds at most.
constexpr uint32_t moveSliceBytes = 7168;
constexpr uint32_t sumSliceBytes = 3584;
// Tokens whose weights travel together.
constexpr uint32_t pushTokens = 64;
// Flags for the weights that one rank pushes; `pushedEntries` counts the entries of all ranks. The index of a
// flag does not depend on the plan, so a device that is one call ahead, with another plan, writes only to the
// flags of the ranks that it holds.
FUSCO_ON_BOTH inline uint64_t pushFlagsPerRank(uint64_t pushedEntries) {
  return pushedEntries / pushTokens + 1;
}

// One addition of combine at the token's own rank. Terms of a token are in the order of addition; there are
// topk, the unused ones at the end.
struct SumTerm {
  uint32_t row;   // slot at a local rank, or landing row
  uint32_t info;  // k, rank << termRankShift, and the flags below
};
constexpr uint32_t termK = 0xff;
constexpr uint32_t termRankShift = 8;
constexpr uint32_t termIsLanding = 1u << 16;  // a finished partial sum of a remote rank
constexpr uint32_t termIsUsed = 1u << 17;

// Sizes of a plan as one device sees it. In device memory, so that a captured launch can use another plan.
struct OnePassHead {
  uint32_t ranks;
  uint32_t locals;
  uint32_t remotes;
  uint32_t topk;
  uint32_t maxTokens;  // of any rank
  uint32_t tokens[maxRanks];
  uint32_t tokenStart[maxRanks + 1];  // first token of each rank, if the tokens of all ranks are numbered
  uint32_t localStart[maxRanks];      // local index -> first token, if the tokens of local ranks are numbered
  uint32_t arrivalStart[maxRanks];  // remote rank -> first token, if the tokens of remote ranks are numbered
  uint32_t local[maxRanks];         // local index -> rank
  uint32_t remote[maxRanks];        // remote index -> rank, the next rank first
  uint32_t localOf[maxRanks];       // rank -> local index, or noSlot
};

// Tables of a plan on one device.
struct OnePassTables {
  const OnePassHead *head;
  const Place *place;       // [local tokens, topk]: all slots
  const Place *send;        // [local tokens, topk]: local slots, and the landing slot of each remote rank
  const SumTerm *terms;     // [local tokens, topk]
  const uint32_t *arrival;  // [locals, capacity of remote tokens, topk]
  const uint32_t
      *arrivalRow;         // [locals, capacity of remote tokens]: landing row of the partial sum at its home
  uint64_t arrivalTokens;  // that capacity
};

// What all one-pass launches have in common.
struct OnePassCommon {
  OnePassTables plan;
  LaunchControl *control;
  WaitFailure *failure;  // host memory
  uint64_t deadlineNs;
  uint64_t digest;  // of the call, where processes compare it
  uint32_t device;  // index of this device
  uint32_t devices;
  uint32_t chunkTokens;       // the same on all devices; chunkTokens * topk <= maxChunkEntries
  uint32_t hasProcesses;      // every device belongs to another process: ready messages are sent
  Inbox *inbox[maxRanks];     // by device
  uint32_t *flags[maxRanks];  // by rank: flags of chunks that arrive there
};

// Buffers of this device as each other device addresses them: told in ready messages.
struct ToldAddresses {
  uint64_t of[maxRanks][maxPeerBuffers];
};

struct MoveParams {
  OnePassCommon common;
  ToldAddresses told;
  DispatchParams dispatch;
  uint32_t slices;  // of all leading payloads, at least 1
  uint32_t lag;     // chunks between sending and copying on
  uint32_t sliceStart[maxPayloads + 1];
  uint32_t tail[maxPayloads];  // leading payload that travels with the last slice of another, or noTail
};
constexpr uint32_t noTail = 0xffffffffu;

struct SumParams {
  OnePassCommon common;
  uint64_t rowBytes;
  uint32_t slices;   // set by launchSum
  uint32_t senders;  // blocks that begin with sends; at least the number of blocks: all
  uint32_t isWeighted;
  const uint8_t *from[maxRanks];
  uint8_t *to[maxRanks];
  uint8_t *landing[maxRanks];  // by home rank: its landing rows
  const float *weights[maxRanks];
  float *pushed[maxRanks];          // by device: weights of all tokens, two sets of [all tokens, topk]
  uint64_t pushedEntries;           // capacity of one set; the same on all devices
  uint32_t *pushedFlags[maxRanks];  // by device
};

// Enqueue on a stream of the current device.
cudaError_t launchMove(const MoveParams &params, uint32_t blocks, cudaStream_t stream);
// `keepsPartials`: partial sums are float32.
cudaError_t launchSum(SumParams params, fusco_dtype dtype, bool keepsPartials, uint32_t blocks,
                      cudaStream_t stream);
// Elements of a row that one work item adds.
uint32_t sumSliceElements(fusco_dtype dtype, bool keepsPartials);

}  // namespace fusco::cuda
