#include "call_checks.hpp"
#include "dispatch_params.hpp"
#include "exchange_frame.hpp"
#include "peer_exchange.hpp"

namespace fusco::nccl {

using cuda::DispatchParams;
using cuda::Payload;

namespace {

void checkDispatch(Plan &plan, const fusco_dispatch_call &call) {
  if (call.payload_count > maxCallPayloads) {
    throw Failure(FUSCO_E_LIMIT, "%u payloads in one dispatch; the limit is %u", call.payload_count,
                  maxCallPayloads)
        .limited(call.payload_count, maxCallPayloads);
  }
  cuda::checkDeviceCall(plan.sizes(), call, reachOf(plan));
}

// Whether a row of the payload crosses to a neighbor once, which copies it on: a scaled row differs in each
// slot.
bool isSentOnce(const fusco_dispatch_call &call, const fusco_payload &payload) {
  return call.scale == nullptr && payload.per == FUSCO_PER_TOKEN;
}

// Some payloads of a dispatch, with their numbers among all.
struct Part {
  std::vector<fusco_payload> payloads;
  std::vector<uint32_t> numbers;
};

// Enqueues a part of a dispatch to the places of `tables`, and padding. `sharesDevice`: NCCL's kernels run at
// the same time and need room on the SMs.
void enqueuePart(Plan &plan, fusco_dispatch_call call, const Part &part, const cuda::DeviceTables &tables,
                 const Exchange &exchange, bool sharesDevice) {
  if (part.payloads.empty() && call.origins == nullptr) return;
  Group &group = plan.group();
  const uint32_t self = group.neighbors().self;
  const uint32_t topk = plan.sizes().topk;
  DispatchParams base{};
  base.plan = tables;
  base.barrier = plan.device().barrier;
  base.scale[self] = floatsOf(call.scale);
  if (call.origins != nullptr) {
    const std::vector<uint8_t *> &origins = exchange.mapped(call.payload_count);
    for (size_t n = 0; n < origins.size(); n++) base.origins[n] = reinterpret_cast<int32_t *>(origins[n]);
  }
  const auto fill = [&](uint32_t i, Payload &payload) {
    const uint32_t p = part.numbers[i];
    payload.from[self] = bytesOf(part.payloads[i].from[0]);
    std::copy(exchange.mapped(p).begin(), exchange.mapped(p).end(), payload.to);
  };
  call.payloads = part.payloads.data();
  call.payload_count = static_cast<uint32_t>(part.payloads.size());
  for (DispatchParams &params : cuda::dispatchParams(call, topk, base, fill)) {
    if (call.scale != nullptr) {
      group.must(cuda::launchScaled(params, group.limits(), group.directStream()),
                 "launching a scaled dispatch");
    } else {
      params.tiling = cuda::tilingOf(params, group.limits(), topk, 0);
      if (sharesDevice) params.tiling.blocksPerSm = 1;
      group.must(cuda::launchDispatch(params, group.limits(), group.directStream()), "launching a dispatch");
    }
  }
}

// Rows for neighbors: once to each, or straight into their slots; and the padding of the local rank.
void enqueueDirect(Plan &plan, const fusco_dispatch_call &call, const Exchange &exchange, bool sharesDevice) {
  Part once, others;
  for (uint32_t p = 0; p < call.payload_count; p++) {
    Part &part = isSentOnce(call, call.payloads[p]) ? once : others;
    part.payloads.push_back(call.payloads[p]);
    part.numbers.push_back(p);
  }
  fusco_dispatch_call withoutOrigins = call;
  withoutOrigins.origins = nullptr;
  enqueuePart(plan, withoutOrigins, once, plan.device().once, exchange, sharesDevice);
  enqueuePart(plan, call, others, plan.device().direct, exchange, sharesDevice);
}

// Copies rows that have arrived in the local rank's buffers to their other slots.
void enqueueCopies(Plan &plan, const fusco_dispatch_call &call) {
  Group &group = plan.group();
  ScatterParams params{};
  params.ranges = allRows(plan.copiedRows());
  params.index = plan.device().copyFrom;
  params.offset = plan.device().copyOffset;
  params.places = plan.device().copyPlaces;
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    if (!isSentOnce(call, payload)) continue;
    uint8_t *rows = bytesOf(payload.to[0]);
    params.from = rows;
    params.to[group.neighbors().self] = rows;
    params.rowBytes = payload.row_bytes;
    params.unit = unitOf(payload.row_bytes | bitsOf(rows));
    group.must(launchScatter(params, group.workStream()), "copying rows to their other slots");
  }
}

// One row per entry, received in its slot.
SendRecvPhase entryPhase(const Plan &plan, const fusco_dispatch_call &call, const fusco_payload &payload) {
  const bool perToken = payload.per == FUSCO_PER_TOKEN;
  PackParams params = packOf(plan.device().entryOrder, perToken ? plan.sizes().topk : 1,
                             bytesOf(payload.from[0]), payload.row_bytes);
  params.dtype = payload.dtype;
  if (perToken) params.scale = floatsOf(call.scale);
  SendRecvPhase phase;
  phase.rowBytes = payload.row_bytes;
  phase.pack = packedBy(launchPack, params);
  phase.to = bytesOf(payload.to[0]);
  return phase;
}

SendRecvPhase originPhase(const Plan &plan, const fusco_buffer &origins) {
  OriginParams params{};
  params.index = plan.device().entryOrder;
  params.topk = plan.sizes().topk;
  params.rank = plan.group().neighbors().rank;
  SendRecvPhase phase;
  phase.rowBytes = originBytes;
  phase.pack = packedBy(launchOrigins, params);
  phase.to = bytesOf(origins);
  return phase;
}

// For messages that do not end with runs: rows of entries arrive in a ring segment and are copied to `to`.
void receiveInRing(const Plan &plan, SendRecvPhase &phase) {
  phase.unpack = [&plan, rowBytes = phase.rowBytes, to = phase.to](
                     const Ranges &ranges, const uint8_t *segment, cudaStream_t stream) {
    return launchScatter(intoSlots(plan, ranges, segment, rowBytes, to), stream);
  };
}

// Payload `p`, one row per token and node; forwarders store it once at each rank of the node, or, with the
// weights of the landed rows' places, scaled at all its places. `weights` may be null.
SendRecvPhase forwardedPhase(const Plan &plan, const Exchange &exchange, const fusco_payload &payload,
                             uint32_t p, const float *weights) {
  ScatterParams base{};
  base.offset = weights == nullptr ? plan.device().onceOffset : plan.device().landedOffset;
  base.places = weights == nullptr ? plan.device().oncePlaces : plan.device().landedPlaces;
  base.rowBytes = payload.row_bytes;
  base.scale = weights;
  base.dtype = payload.dtype;
  SendRecvPhase phase;
  phase.rowBytes = payload.row_bytes;
  phase.pack =
      packedBy(launchPack, packOf(plan.device().rowOrder, 1, bytesOf(payload.from[0]), payload.row_bytes));
  phase.unpack = [&exchange, base, p](const Ranges &ranges, const uint8_t *segment, cudaStream_t stream) {
    ScatterParams params = base;
    params.ranges = ranges;
    params.from = segment;
    params.unit = unitOf(params.rowBytes | copyAddresses(exchange.mapped(p), params.to));
    return launchScatter(params, stream);
  };
  return phase;
}

}  // namespace

void dispatch(Plan &plan, const fusco_nccl_call &callId, const fusco_dispatch_call &call,
              fusco_nccl_report &report, const fusco_nccl_peers *peers) {
  checkDispatch(plan, call);
  if (plan.isOnePass()) {
    dispatchToPeers(plan, callId, call, report);
    return;
  }
  Exchange exchange(plan, callId, report, peers);
  const float *landedWeights = exchange.reserveWeights(call.scale);
  std::vector<SharedBuffer> buffers;
  // Rows that forwarders distribute, and rows for their final slots at ranks that are not reached directly.
  std::vector<SendRecvPhase> rows;
  std::vector<SendRecvPhase> entries;
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    buffers.push_back({payload.to[0], payload.row_bytes});
    report.direct_bytes +=
        (isSentOnce(call, payload) ? plan.rowsOnce() : plan.directRows()) * payload.row_bytes;
    if (plan.tables().forwards && payload.per == FUSCO_PER_TOKEN) {
      rows.push_back(forwardedPhase(plan, exchange, payload, p, landedWeights));
    } else {
      entries.push_back(entryPhase(plan, call, payload));
    }
  }
  if (call.origins != nullptr) {
    buffers.push_back({call.origins[0], originBytes});
    entries.push_back(originPhase(plan, call.origins[0]));
  }
  if (!plan.entriesOut().inPlace(rowBytesOf(entries))) {
    for (SendRecvPhase &phase : entries) receiveInRing(plan, phase);
  }
  const bool usesWire =
      (!rows.empty() && !plan.rowsOut().isEmpty()) || (!entries.empty() && !plan.entriesOut().isEmpty());
  reserve(plan.group(), plan.rowsOut(), rows);
  reserve(plan.group(), plan.entriesOut(), entries);
  exchange.shareBuffers(buffers);
  exchange.begin();
  exchange.afterFirstRound([&] { enqueueDirect(plan, call, exchange, usesWire); });
  if (!rows.empty()) exchange.sendWeights(call.scale);
  exchange.run(plan.rowsOut(), rows);
  exchange.run(plan.entriesOut(), entries);
  exchange.afterNeighbors([&] { enqueueCopies(plan, call); });
  exchange.end();
  countDispatch(plan.sizes(), call, report.stats);
}

}  // namespace fusco::nccl
