// Kernels around the wire: host side. Each call enqueues on a stream of the current device.
#pragma once

#include <cuda_runtime_api.h>

#include "rank_tables.hpp"

namespace fusco::nccl {

// Rows [first, first + rows) of a stream that lie at row `at` of a ring slot.
struct Range {
  uint32_t first;
  uint32_t rows;
  uint32_t at;
};

struct Ranges {
  uint32_t count = 0;
  uint32_t rows = 0;  // of all of them; they follow one another in the slot
  Range range[maxPeersPerRound];
};

// Gathers rows of a stream into a slot.
struct PackParams {
  Ranges ranges;
  const uint32_t *index;  // [stream rows]: a source row is index / divide
  uint32_t divide;
  const uint8_t *from;
  uint8_t *to;
  uint64_t rowBytes;
  uint32_t unit;       // bytes of the widest access that all rows allow
  const float *scale;  // null, or by index: rows are multiplied on the way
  uint32_t dtype;      // with `scale`
};

// Writes i32 (rank, token, k) of a stream of entries into a slot.
struct OriginParams {
  Ranges ranges;
  const uint32_t *index;  // [stream rows]: token * topk + k
  uint32_t topk;
  int32_t rank;
  int32_t *to;
};

// Copies the rows of a slot to all of their places.
struct ScatterParams {
  Ranges ranges;
  // Places of each landed row: `slot` of the own rank (number `self`), one for each; or, where that is null,
  // places [offset[row], offset[row + 1]).
  const uint32_t *slot;
  uint32_t self;
  const uint32_t *offset;
  const Place *places;
  const uint8_t *from;
  uint64_t rowBytes;
  uint32_t unit;
  uint8_t *to[maxNeighbors];
  const float *scale;  // null, or by place
  uint32_t dtype;
};

// Adds up rows. Sum `range.first + i` is written to row `range.at + i` of `to`.
struct SumParams {
  Ranges ranges;
  const uint32_t *offset;
  const SumTerm *terms;
  uint64_t rowBytes;         // of the payload, and of `to` unless f32Out
  uint64_t landingRowBytes;  // of from[landingPeer]
  const uint8_t *from[maxNeighbors + 1];
  uint8_t *to;
  const float *weights;  // null, or by SumTerm.weight
};

// Epoch flags of one exchange's edge: written into every neighbor's memory, awaited in the own.
struct FlagParams {
  uint32_t neighbors;
  uint32_t self;
  uint64_t epoch;
  uint64_t *theirs[maxNeighbors];  // where neighbor i awaits this rank
  const uint64_t *own;             // [neighbors]
  const uint32_t *abort;           // in the host's memory: not zero ends the wait
};

cudaError_t launchPack(const PackParams &params, cudaStream_t stream);
cudaError_t launchOrigins(const OriginParams &params, cudaStream_t stream);
cudaError_t launchScatter(const ScatterParams &params, cudaStream_t stream);
// `f32Out`: sums are stored in float32, whatever the payload's dtype (a tree's kept partial sums).
cudaError_t launchSums(const SumParams &params, fusco_dtype dtype, uint32_t tree, bool f32Out, uint32_t unit,
                       cudaStream_t stream);
// Releases what the stream has done to all neighbors, at system scope, and acquires what they have.
cudaError_t launchFlags(const FlagParams &params, cudaStream_t stream);

}  // namespace fusco::nccl
