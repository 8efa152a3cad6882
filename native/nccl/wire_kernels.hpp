// Kernels before and after the wire: host side. Each call enqueues on a stream of the current device.
// Pointers in parameters are device memory that must stay valid until the kernel has run.
#pragma once

#include <cuda_runtime_api.h>

#include "rank_tables.hpp"

namespace fusco::nccl {

// Rows [first, first + rows) of a send order that are stored from row `at` of a ring segment on.
struct Range {
  uint32_t first;
  uint32_t rows;
  uint32_t at;
};

struct Ranges {
  uint32_t count = 0;
  uint32_t rows = 0;  // of all of them; they follow one another in the segment
  Range range[maxPeersPerRound];
};

// Rows 0 to rows - 1.
inline Ranges allRows(uint64_t rows) {
  Ranges ranges;
  ranges.count = 1;
  ranges.rows = static_cast<uint32_t>(rows);
  ranges.range[0] = {0, ranges.rows, 0};
  return ranges;
}

// What packing and scattering have in common: the rows that they move.
struct MovedRows {
  Ranges ranges;
  const uint8_t *from;
  uint64_t rowBytes;
  uint32_t unit;       // bytes of the widest access that all rows allow
  const float *scale;  // null, or weights by which rows are multiplied on the way
  uint32_t dtype;      // with `scale`
};

// Gathers rows of a send order into a ring segment.
struct PackParams : MovedRows {
  const uint32_t *index;  // [rows of the send order]: a source row is index / divide, its weight scale[index]
  uint32_t divide;
  uint8_t *to;
};

// Writes the origins, i32 rank, token and k, of a send order of entries into a ring segment.
struct OriginParams {
  Ranges ranges;
  const uint32_t *index;  // [rows of the send order]: token * topk + k
  uint32_t topk;
  uint32_t rank;
  uint8_t *to;
};

// Copies rows to all of their places: the rows of a ring segment, or rows of a buffer.
struct ScatterParams : MovedRows {
  const uint32_t *index;  // null, or [rows of the receive order]: the row of `from`
  // Places of each landed row: `slot` of the local rank (neighbor `self`), one for each; or, if that is null,
  // places [offset[row], offset[row + 1]), each with its weight in `scale`.
  const uint32_t *slot;
  uint32_t self;
  const uint32_t *offset;
  const Place *places;
  uint8_t *to[maxNeighbors];
};

// Adds up rows. Sum `range.first + i` is written to row `range.at + i` of `to`.
struct SumParams {
  Ranges ranges;
  const uint32_t *offset;
  const SumTerm *terms;
  uint64_t rowBytes;         // of the payload, and of `to` with SumOutput::payload
  uint64_t landingRowBytes;  // of from[landingPeer]
  const uint8_t *from[maxNeighbors + 1];
  uint8_t *to;
  const float *weights;  // null, or by SumTerm.weight
};

// The element type of stored sums: the payload's, or float32 for partial sums that a tree keeps.
enum class SumOutput : uint32_t { payload, f32 };

struct SumLaunch {
  fusco_dtype dtype;  // of the payload
  Tree tree;          // Tree::none with SumOutput::f32
  SumOutput output;
  uint32_t unit;  // bytes of the widest access that all rows allow; 16: vectors, else elements
};

// Epoch flags of one edge of an exchange: written into every neighbor's memory, awaited in the local rank's.
struct FlagParams {
  uint32_t neighbors;
  uint32_t self;
  uint64_t epoch;
  uint64_t *theirs[maxNeighbors];  // where neighbor i awaits this rank
  const uint64_t *local;           // [neighbors]
  const uint32_t *abort;           // pinned host memory: not zero ends the wait
};

cudaError_t launchPack(const PackParams &params, cudaStream_t stream);
cudaError_t launchOrigins(const OriginParams &params, cudaStream_t stream);
cudaError_t launchScatter(const ScatterParams &params, cudaStream_t stream);
cudaError_t launchSums(const SumParams &params, const SumLaunch &launch, cudaStream_t stream);
// Releases what the stream has done to all neighbors, at system scope, and acquires what they have.
cudaError_t launchFlags(const FlagParams &params, cudaStream_t stream);

}  // namespace fusco::nccl
