// The parameters of a dispatch's launches, for the cuda and nccl backends.
#pragma once

#include <functional>
#include <vector>

#include "exchange_launch.hpp"

namespace fusco::cuda {

// Fills `from` and `to` of payload `p` with device addresses, as the plan's tables number the buffers.
using FillAddresses = std::function<void(uint32_t p, Payload &payload)>;

// One element for each launch, of at most maxPayloads payloads: those that TMA moves, or that are scaled
// where the call has a scale, come first. `base` has what the launches share: origins, which only the first
// launch writes, and scale. The caller adds the plan's tables and the tiling. `topk` is the plan's. TMA moves
// aligned rows of at least `minRow` bytes.
std::vector<DispatchParams> dispatchParams(const fusco_dispatch_call &call, uint32_t topk,
                                           const DispatchParams &base, const FillAddresses &fill,
                                           uint64_t minRow = minTmaRow);

// The tiling of one of these launches on a device. `planTile` is the plan's own tile in tokens, or 0.
Tiling tilingOf(const DispatchParams &params, const DeviceLimits &limits, uint32_t topk, uint32_t planTile);

}  // namespace fusco::cuda
