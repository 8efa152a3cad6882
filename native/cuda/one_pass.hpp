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
#include "one_pass_common.hpp"
#include "one_pass_launch.hpp"

namespace fusco::cuda {

// Entries and tokens of a chunk at most.
constexpr uint32_t maxChunkEntries = 256;
constexpr uint32_t maxChunkTokens = 32;
// Bytes of a row that one work item moves, or adds at most.
constexpr uint32_t moveSliceBytes = 7168;
constexpr uint32_t sumSliceBytes = 3584;
// Tokens whose weights one work item pushes: with topk 8 a lane has four of them.
constexpr uint32_t pushTokens = 16;

struct MoveParams {
  OnePassCommon common;
  ToldAddresses told;
  DispatchParams dispatch;
  uint32_t slices;  // of all leading payloads, at least 1
  uint32_t lag;     // chunks between sending and copying on
  uint32_t sliceStart[maxPayloads + 1];
};

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
  // By device: weights of all tokens that other devices have pushed, two sets of [all tokens, topk], zero at
  // first. See pushedWord().
  uint64_t *pushed[maxRanks];
  uint64_t pushedEntries;  // capacity of one set; the same on all devices
  uint32_t addsOwnFirst;   // mayAddOwnFirst()
};

// Whether a combine adds a token's local rows before the partial sums of other devices: a device with one
// rank, and at most 32 entries a token, one for each lane of a warp.
inline uint32_t mayAddOwnFirst(uint32_t localRanks, uint32_t topk) {
  return localRanks == 1 && topk <= 32 ? 1 : 0;
}

// Enqueue on a stream of the current device.
cudaError_t launchMove(const MoveParams &params, const OnePassGrid &grid, cudaStream_t stream);
// `keepsPartials`: partial sums are float32.
cudaError_t launchSum(SumParams params, fusco_dtype dtype, bool keepsPartials, const OnePassGrid &grid,
                      cudaStream_t stream);
// Elements of a row that one work item adds.
uint32_t sumSliceElements(fusco_dtype dtype, bool keepsPartials);

}  // namespace fusco::cuda
