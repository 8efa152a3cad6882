// What host and device code share: the tables of a plan in device memory and the parameters of kernels.
#pragma once

#include <cstdint>

#include "fusco.h"
#include "plan_types.hpp"

namespace fusco::cuda {

// Ranks of one context: pointer tables travel as kernel parameters.
constexpr uint32_t maxRanks = 64;
// Payloads that one launch moves; calls with more are cut into launches.
constexpr uint32_t maxPayloads = 6;
constexpr uint32_t maxTileRows = 32;
// Bytes. Shorter rows are moved by threads: a bulk copy costs as much to start as they take to move.
constexpr uint64_t minTmaRow = 1024;
// The same for one-pass exchanges, where a warp waits for each row that it moves with its threads: scales of
// fp8 rows are longer.
constexpr uint64_t minOnePassTmaRow = 128;
// Bytes of a row that a tile holds at a time: a multiple of 16, which bulk copies need.
constexpr uint32_t minChunk = 16;
constexpr uint32_t maxChunk = 16384;

// Padding of one rank's receive buffer.
struct PaddingRange {
  uint32_t rank;
  uint32_t first;
  uint32_t rows;
};

// Counts of a plan, at the start of its memory. Everything that may change between replays of a captured
// launch is read from here; the addresses below never change.
struct DevicePlanHead {
  uint32_t topk;
  uint32_t localRanks;
  uint32_t tokens;  // of all local ranks
  uint32_t paddings;
  uint32_t tileTokens;  // of `order`; 0 without one
  uint32_t ranksPerNode;
  uint32_t rankOf[maxRanks];          // local index -> number of the rank in the tables of pointers
  uint32_t originOf[maxRanks];        // local index -> rank, as origins name it
  uint32_t tokenStart[maxRanks + 1];  // first token of each local index, last = tokens
};

// The tables of one device's local ranks, device memory. Entry = token * topk + k, tokens counted over the
// local ranks.
struct DeviceTables {
  const DevicePlanHead *head;
  const Place *place;            // [tokens, topk], slots
  const uint8_t *order;          // [tokens, topk], order of stores inside each tile of a rank
  const PaddingRange *paddings;  // [paddings]
};

// One payload of a dispatch, with device pointers by rank.
struct Payload {
  uint64_t rowBytes;
  uint32_t perEntry;  // 0: per token
  uint32_t dtype;     // fusco_dtype
  uint32_t unit;      // bytes of the widest access that all rows allow: 1, 2, 4, 8 or 16
  const uint8_t *from[maxRanks];
  uint8_t *to[maxRanks];
};

// Buffers of a launch that other processes may have: payloads, and origins.
constexpr uint32_t maxPeerBuffers = maxPayloads + 1;

// Where the buffers of other processes are, once their ready messages have come. All null where one process
// has all ranks: then the addresses are in the parameters.
struct PeerRows {
  const uint64_t *addresses;  // device memory, [maxPeerBuffers, maxRanks]
  const uint32_t *failed;     // device memory: not zero if the addresses are not known
};

// How the TMA kernel runs; see chooseTiling().
struct Tiling {
  uint32_t rows = 1;  // of one tile
  uint32_t blocksPerSm = 1;
  uint32_t groups = 1;  // of a tile's stores, between which blocks wait for one another
};

struct DispatchParams {
  DeviceTables plan;
  uint32_t leading;  // payloads that TMA moves, or that are scaled; they come first
  uint32_t payloads;
  uint32_t hasOrigins;
  Tiling tiling;
  uint32_t chunkBytes[maxPayloads];  // of a row, for leading payloads
  uint32_t *barrier;                 // device memory: two counters, zero between launches
  PeerRows peers;                    // for launchScaled: buffers are numbered as payloads are, then origins
  int32_t *origins[maxRanks];
  const float *scale[maxRanks];
  Payload payload[maxPayloads];
};

struct CombineParams {
  DeviceTables plan;
  PeerRows peers;  // buffer 0: `from`
  uint64_t rowBytes;
  const uint8_t *from[maxRanks];
  uint8_t *to[maxRanks];
  const float *weights[maxRanks];  // null: unweighted
};

struct GradientParams {
  DeviceTables plan;
  PeerRows peers;  // buffer 0: `from`
  uint64_t rowBytes;
  const uint8_t *upstream[maxRanks];
  const uint8_t *from[maxRanks];
  float *to[maxRanks];
};

}  // namespace fusco::cuda
