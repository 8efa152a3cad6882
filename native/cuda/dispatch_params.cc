#include "dispatch_params.hpp"

#include <algorithm>

#include "alignment.hpp"

namespace fusco::cuda {

namespace {

Payload payloadOf(const fusco_payload &payload, uint32_t p, const FillAddresses &fill) {
  Payload result{};
  result.rowBytes = payload.row_bytes;
  result.perEntry = payload.per == FUSCO_PER_ENTRY ? 1 : 0;
  result.dtype = payload.dtype;
  fill(p, result);
  uint64_t bits = payload.row_bytes;
  for (const uint8_t *from : result.from) bits |= bitsOf(from);
  for (const uint8_t *to : result.to) bits |= bitsOf(to);
  result.unit = unitOf(bits);
  return result;
}

bool movedByTma(const Payload &payload, uint32_t topk, uint64_t minRow) {
  return payload.perEntry == 0 && payload.unit == 16 && payload.rowBytes >= minRow && topk <= maxTileEntries;
}

}  // namespace

std::vector<DispatchParams> dispatchParams(const fusco_dispatch_call &call, uint32_t topk,
                                           const DispatchParams &base, const FillAddresses &fill,
                                           uint64_t minRow) {
  std::vector<DispatchParams> launches;
  uint32_t p = 0;
  do {
    DispatchParams &params = launches.emplace_back(base);
    params.hasOrigins = call.origins != nullptr && p == 0 ? 1 : 0;
    std::vector<Payload> rest;
    for (const uint32_t end = std::min(p + maxPayloads, call.payload_count); p < end; p++) {
      const Payload payload = payloadOf(call.payloads[p], p, fill);
      const bool isFirst = call.scale != nullptr ? payload.perEntry == 0 : movedByTma(payload, topk, minRow);
      if (isFirst) {
        params.chunkBytes[params.leading] = chunkOf(payload.rowBytes);
        params.payload[params.leading++] = payload;
      } else {
        rest.push_back(payload);
      }
    }
    std::copy(rest.begin(), rest.end(), params.payload + params.leading);
    params.payloads = params.leading + static_cast<uint32_t>(rest.size());
  } while (p < call.payload_count);
  return launches;
}

Tiling tilingOf(const DispatchParams &params, const DeviceLimits &limits, uint32_t topk, uint32_t planTile) {
  uint32_t chunk = minChunk;
  for (uint32_t i = 0; i < params.leading; i++) chunk = std::max(chunk, params.chunkBytes[i]);
  return chooseTiling(limits, topk, chunk, planTile);
}

}  // namespace fusco::cuda
