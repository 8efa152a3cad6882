// Dispatch by ordinary loads and stores of threads: short rows, rows of any size, values of entries, origins,
// padding.
#pragma once

#include "access_unit.hpp"
#include "element_device.cuh"
#include "peer_rows_device.cuh"

namespace fusco::cuda {

// The threads that share a piece of work: number `index` of `count`, whole warps of one or more blocks.
struct Crew {
  uint64_t index;
  uint64_t count;
};

// Lanes that share a row: as many as it has units, so that short rows fill warps.
__device__ inline uint32_t lanesOver(uint64_t units) {
  uint32_t width = 1;
  while (width < warpLanes && width < units) width *= 2;
  return width;
}

// Each token's row is read once and stored to all its places: copiesOf(unit, row) returns what to store, a
// function of k.
template <class Unit, class F>
__device__ void storeTokens(const DispatchParams &p, const Payload &payload, Crew crew, F copiesOf) {
  const DevicePlanHead *head = p.plan.head;
  const uint64_t units = payload.rowBytes / sizeof(Unit);
  const uint32_t width = lanesOver(units);
  const uint32_t topk = head->topk;
  const uint64_t groups = crew.count / width;
  for (uint64_t token = crew.index / width; token < head->tokens; token += groups) {
    const TokenRow row = tokenRow(head, static_cast<uint32_t>(token));
    const Unit *from = reinterpret_cast<const Unit *>(payload.from[row.rank] + row.row * payload.rowBytes);
    const Place *places = p.plan.place + token * topk;
    for (uint64_t at = crew.index % width; at < units; at += width) {
      const auto copies = copiesOf(loadOnce(from + at), row);
      for (uint32_t k = 0; k < topk; k++) {
        const Place place = places[k];
        if (place.row < 0) continue;
        storeOnce(reinterpret_cast<Unit *>(rowsAt(p, payload, place)) + at, copies(k));
      }
    }
  }
}

template <class Unit>
__device__ void copyTokens(const DispatchParams &p, const Payload &payload, Crew crew) {
  storeTokens<Unit>(p, payload, crew,
                    [](Unit value, TokenRow) { return [value](uint32_t) { return value; }; });
}

// Values that belong to an entry.
template <class Unit>
__device__ void copyEntries(const DispatchParams &p, const Payload &payload, Crew crew) {
  const DevicePlanHead *head = p.plan.head;
  const uint64_t units = payload.rowBytes / sizeof(Unit);
  const uint64_t entries = static_cast<uint64_t>(head->tokens) * head->topk;
  const uint32_t width = lanesOver(units);
  for (uint64_t entry = crew.index / width; entry < entries; entry += crew.count / width) {
    const Place place = p.plan.place[entry];
    if (place.row < 0) continue;
    const TokenRow token = tokenRow(head, static_cast<uint32_t>(entry / head->topk));
    const uint64_t number = token.row * head->topk + entry % head->topk;
    const Unit *from = reinterpret_cast<const Unit *>(payload.from[token.rank] + number * payload.rowBytes);
    Unit *to = reinterpret_cast<Unit *>(rowsAt(p, payload, place));
    for (uint64_t at = crew.index % width; at < units; at += width) to[at] = from[at];
  }
}

__device__ inline void writeOrigins(const DispatchParams &p, Crew crew) {
  const DevicePlanHead *head = p.plan.head;
  const uint64_t entries = static_cast<uint64_t>(head->tokens) * head->topk;
  for (uint64_t entry = crew.index; entry < entries; entry += crew.count) {
    const Place place = p.plan.place[entry];
    if (place.row < 0) continue;
    const uint32_t token = static_cast<uint32_t>(entry / head->topk);
    const uint32_t local = localOf(head, token);
    int32_t *to = bufferOf(p.peers, maxPayloads, place.peer, p.origins[place.peer]) +
                  originWords * static_cast<uint64_t>(place.row);
    writeOrigin(to, head->originOf[local], token - head->tokenStart[local],
                static_cast<uint32_t>(entry % head->topk));
  }
}

// Writes `value` to `bytes` bytes by the threads of one crew.
__device__ inline void fillBytes(uint8_t *to, uint64_t bytes, uint32_t value, Crew crew) {
  if (unitOf(reinterpret_cast<uint64_t>(to) | bytes) == 16) {
    auto *wide = reinterpret_cast<uint4 *>(to);
    for (uint64_t i = crew.index; i < bytes / 16; i += crew.count) {
      storeOnce(wide + i, make_uint4(value, value, value, value));
    }
    return;
  }
  for (uint64_t i = crew.index; i < bytes; i += crew.count) to[i] = static_cast<uint8_t>(value);
}

// Padding: zero in every payload, -1 in origins. Several warps share a range if there are more warps than
// ranges.
__device__ inline void fillPadding(const DispatchParams &p, Crew crew) {
  const uint32_t paddings = p.plan.head->paddings;
  if (paddings == 0) return;
  const uint64_t warps = crew.count / warpLanes;
  const uint64_t warp = crew.index / warpLanes;
  const uint64_t share = warps > paddings ? warps / paddings : 1;
  for (uint64_t work = warp; work < paddings * share; work += warps) {
    const PaddingRange padding = p.plan.paddings[work / share];
    const Crew part = {work % share * warpLanes + crew.index % warpLanes, share * warpLanes};
    for (uint32_t i = 0; i < p.payloads; i++) {
      const Payload &payload = p.payload[i];
      fillBytes(payload.to[padding.rank] + padding.first * payload.rowBytes, padding.rows * payload.rowBytes,
                0, part);
    }
    if (p.hasOrigins != 0) {
      auto *origins = reinterpret_cast<uint8_t *>(p.origins[padding.rank]);
      fillBytes(origins + padding.first * originBytes, padding.rows * originBytes, 0xffffffffu, part);
    }
  }
}

template <class Unit>
__device__ void copyPayload(const DispatchParams &p, const Payload &payload, Crew crew) {
  if (payload.perEntry != 0) {
    copyEntries<Unit>(p, payload, crew);
  } else {
    copyTokens<Unit>(p, payload, crew);
  }
}

// Everything but the leading payloads.
__device__ inline void moveRemaining(const DispatchParams &p, Crew crew) {
  for (uint32_t i = p.leading; i < p.payloads; i++) {
    const Payload &payload = p.payload[i];
    withUnit(payload.unit, [&](auto unit) { copyPayload<decltype(unit)>(p, payload, crew); });
  }
  if (p.hasOrigins != 0) writeOrigins(p, crew);
  fillPadding(p, crew);
}

}  // namespace fusco::cuda
