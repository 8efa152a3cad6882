// What host and device share: the tables of a plan on the device and the parameters of a launch.
#pragma once

#include <cstdint>

#include "fusco.h"

namespace fusco::cuda {

// Ranks of one context: pointer tables travel as kernel parameters.
constexpr uint32_t maxRanks = 64;
// Payloads that one launch moves; calls with more are cut into launches.
constexpr uint32_t maxPayloads = 6;
// Entries of one tile: their order is a byte each.
constexpr uint32_t maxTileEntries = 256;
constexpr uint32_t maxTileRows = 32;
// Rows shorter than this are moved by threads: a bulk copy costs as much to start as they take to move.
constexpr uint64_t minBulkRow = 1024;

// Where a row goes: `peer` below maxRanks is that rank's receive buffer, maxRanks + r the staging rows of r.
struct Place {
  uint32_t peer;
  int32_t row;  // negative: masked or dropped
};

// Padding of one rank's receive buffer.
struct Hole {
  uint32_t rank;
  uint32_t first;
  uint32_t rows;
};

// A row that a forwarder distributes: where it landed, and its part of `forwardPlace`.
struct Landed {
  Place at;
  uint32_t firstPlace;
  uint32_t places;
};

// Counts of a plan, at the start of its slot. Everything that may change between replays of a captured launch
// is read from here; the addresses below never change.
struct DevicePlanHead {
  uint32_t topk;
  uint32_t localRanks;
  uint32_t tokens;  // of all local ranks
  uint32_t holes;
  uint32_t landed;
  uint32_t tileTokens;  // of `order`; 0 without one
  uint32_t ranksPerNode;
  uint32_t tree;                      // fusco::Tree
  uint32_t rankOf[maxRanks];          // local index -> number of the rank in the tables of pointers
  uint32_t originOf[maxRanks];        // local index -> rank, as origins name it
  uint32_t tokenStart[maxRanks + 1];  // first token of each local index, last = tokens
};

// The tables of one device's local ranks. Entry = token * topk + k, tokens counted over the local ranks.
struct DeviceTables {
  const DevicePlanHead *head;
  const Place *place;         // [tokens, topk], final slots
  const Place *stagedPlace;   // [tokens, topk], own node's slots and landing rows
  const uint8_t *order;       // [tokens, topk], order of stores inside each tile of a rank
  const Hole *holes;          // [holes]
  const Landed *landed;       // [landed]
  const Place *forwardPlace;  // last hops of landed rows
};

// One payload of a dispatch, with pointers by rank.
struct Payload {
  uint64_t rowBytes;
  uint32_t perEntry;
  uint32_t dtype;
  uint32_t unit;  // bytes of the widest access that all rows allow
  const uint8_t *from[maxRanks];
  uint8_t *to[2 * maxRanks];
};

// How the tile kernel runs; chooseTiling() picks, the sweep tries others.
struct Tiling {
  uint32_t rows = 1;  // of one tile
  uint32_t blocksPerSm = 1;
  uint32_t meet = 1;    // all blocks ask for rows, then all store
  uint32_t groups = 1;  // of a tile's stores, between which blocks wait for one another
};

struct DispatchParams {
  DeviceTables plan;
  const Place *place;  // plan.place or plan.stagedPlace
  uint32_t bulk;       // payloads that go by tiles; they come first
  uint32_t payloads;
  uint32_t hasOrigins;
  Tiling tiling;
  uint32_t chunkBytes[maxPayloads];  // of a row, for bulk payloads
  uint32_t *meeting;                 // two counters, zero between launches
  int32_t *origins[maxRanks];
  const float *scale[maxRanks];
  Payload payload[maxPayloads];
};

struct CombineParams {
  DeviceTables plan;
  uint64_t rowBytes;
  const uint8_t *from[maxRanks];
  uint8_t *to[maxRanks];
  const float *weights[maxRanks];  // null: unweighted
};

struct GradientParams {
  DeviceTables plan;
  uint64_t rowBytes;
  const uint8_t *upstream[maxRanks];
  const uint8_t *from[maxRanks];
  float *to[maxRanks];
};

}  // namespace fusco::cuda
