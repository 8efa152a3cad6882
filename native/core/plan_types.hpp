// What processors and GPUs share. Compiled by nvcc as well.
#pragma once

#include <cstdint>

// A function for processors and GPUs.
#ifdef __CUDACC__
#define FUSCO_ON_BOTH __host__ __device__
#else
#define FUSCO_ON_BOTH
#endif

namespace fusco {

// How combine adds the rows of a token: one after the other by k, or node by node with partial sums that are
// kept in float32 or rounded to the payload's dtype.
enum class Tree : uint32_t { none, kept, rounded };

// Where a row goes: row `row` of buffer `peer`. Tables say which buffers they number.
struct Place {
  uint32_t peer;
  int32_t row;  // negative: masked or dropped, no row
};

// One record of a dispatch's origins: i32 rank, token, k.
constexpr uint32_t originWords = 3;
constexpr uint64_t originBytes = originWords * sizeof(int32_t);
// Bytes of a weight or of another float32 that belongs to an entry.
constexpr uint64_t weightBytes = sizeof(float);
// Partial sums of a dot product; element i belongs to lane i % dotLanes. Part of the definition of its bits.
constexpr uint32_t dotLanes = 32;
// Most entries of one tile: a plan's tile order has a byte for each.
constexpr uint32_t maxTileEntries = 256;

}  // namespace fusco
