#include "dot_device.cuh"
#include "exchange_launch.hpp"
#include "peer_rows_device.cuh"

namespace fusco::cuda {

namespace {

// An entry, with the row of the output gradient and the row of the experts.
struct EntryRows {
  Place place;
  const uint8_t *gradient;
  const uint8_t *experts;
  float *to;
};

template <bool hasPeers>
__device__ EntryRows entryRows(const GradientParams &p, uint64_t entry) {
  const DevicePlanHead *head = p.plan.head;
  const auto number = static_cast<uint32_t>(entry / head->topk);
  const TokenRow token = tokenRow(head, number);
  const Place place = p.plan.place[entry];
  // No remainder of 64 bits: it costs as much as several rounds of the loops below.
  const uint64_t k = entry - uint64_t{number} * head->topk;
  EntryRows rows{place, p.upstream[token.rank] + token.row * p.rowBytes, nullptr,
                 p.to[token.rank] + token.row * head->topk + k};
  if (place.row >= 0) {
    rows.experts = bufferOf<hasPeers>(p.peers, 0, place.peer, p.from[place.peer]) +
                   static_cast<uint64_t>(place.row) * p.rowBytes;
  }
  return rows;
}

// A warp for each slotsAtOnce entries, which share its threads.
template <class E, bool hasPeers>
__global__ void __launch_bounds__(rowThreads) gradientSlots(const __grid_constant__ GradientParams p) {
  if (hasPeers && isGivenUp(p.peers)) return;
  const uint32_t lane = threadIdx.x % warpLanes;
  const uint32_t thread = lane % slotThreads;
  const uint64_t entries = static_cast<uint64_t>(p.plan.head->tokens) * p.plan.head->topk;
  const uint64_t warps = gridDim.x * uint64_t{blockDim.x} / warpLanes;
  const uint64_t warp = (blockIdx.x * uint64_t{blockDim.x} + threadIdx.x) / warpLanes;
  for (uint64_t first = warp * slotsAtOnce; first < entries; first += warps * slotsAtOnce) {
    const uint64_t entry = first + lane / slotThreads;
    const bool exists = entry < entries;
    const EntryRows rows = entryRows<hasPeers>(p, exists ? entry : first);
    SlotRows<E, false> slot;
    slot.gradient = reinterpret_cast<const uint4 *>(rows.gradient);
    slot.experts = reinterpret_cast<const uint4 *>(rows.experts);
    // Entries without a row have the gradient 0, which is what a slot without elements adds up to.
    slot.run(static_cast<uint32_t>(p.rowBytes / wideUnit), exists && rows.place.row >= 0, thread);
    const float total = slot.total();
    if (exists && thread == 0) *rows.to = __uint_as_float(DeviceF32::encode(total));
  }
}

static_assert(dotLanes == warpLanes, "a warp holds the lanes of a dot product");

// For rows of any alignment. A warp for each entry: lane j adds elements j, j + dotLanes, and so on, and the
// lanes are added pairwise.
template <class E, bool hasPeers>
__global__ void __launch_bounds__(rowThreads) gradientEntries(const __grid_constant__ GradientParams p) {
  if (hasPeers && isGivenUp(p.peers)) return;
  using Bits = typename E::Bits;
  const uint32_t lane = threadIdx.x % warpLanes;
  const uint64_t entries = static_cast<uint64_t>(p.plan.head->tokens) * p.plan.head->topk;
  const uint64_t elements = p.rowBytes / E::bytes;
  const uint64_t warps = gridDim.x * uint64_t{blockDim.x} / warpLanes;
  for (uint64_t entry = (blockIdx.x * uint64_t{blockDim.x} + threadIdx.x) / warpLanes; entry < entries;
       entry += warps) {
    const EntryRows rows = entryRows<hasPeers>(p, entry);
    float sum = 0.0f;
    if (rows.place.row >= 0) {
      const auto *a = reinterpret_cast<const Bits *>(rows.gradient);
      const auto *b = reinterpret_cast<const Bits *>(rows.experts);
#pragma unroll 8
      for (uint64_t i = lane; i < elements; i += dotLanes) {
        sum = __fadd_rn(sum, __fmul_rn(E::decode(a[i]), E::decode(b[i])));
      }
      for (uint32_t distance = dotLanes / 2; distance >= 1; distance /= 2) {
        sum = __fadd_rn(sum, __shfl_down_sync(allLanes, sum, distance));
      }
    }
    if (lane == 0) *rows.to = __uint_as_float(DeviceF32::encode(sum));
  }
}

using GradientKernel = void (*)(GradientParams);

template <class E, bool hasPeers>
GradientKernel gradientKernel(uint32_t unit) {
  if (unit == wideUnit) return gradientSlots<E, hasPeers>;
  return gradientEntries<E, hasPeers>;
}

}  // namespace

cudaError_t launchGradient(const GradientParams &params, const DeviceLimits &limits, fusco_dtype dtype,
                           uint32_t unit, cudaStream_t stream) {
  const GradientKernel kernel = forElement(dtype, [&](auto element) {
    using E = decltype(element);
    return params.peers.addresses != nullptr ? gradientKernel<E, true>(unit) : gradientKernel<E, false>(unit);
  });
  kernel<<<limits.sms * rowBlocksPerSm, rowThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace fusco::cuda
