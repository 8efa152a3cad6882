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

// Rows for neighbors, straight into their slots, and the padding of the local rank. `sharesDevice`: NCCL's
// kernels run at the same time and need room on the SMs.
void enqueueDirect(Plan &plan, const fusco_dispatch_call &call, const Exchange &exchange, bool sharesDevice) {
  Group &group = plan.group();
  const uint32_t self = group.neighbors().self;
  const uint32_t topk = plan.sizes().topk;
  DispatchParams base{};
  base.plan = plan.device().direct;
  base.barrier = plan.device().barrier;
  base.scale[self] = floatsOf(call.scale);
  if (call.origins != nullptr) {
    const std::vector<uint8_t *> &origins = exchange.mapped(call.payload_count);
    for (size_t n = 0; n < origins.size(); n++) base.origins[n] = reinterpret_cast<int32_t *>(origins[n]);
  }
  const auto fill = [&](uint32_t p, Payload &payload) {
    payload.from[self] = bytesOf(call.payloads[p].from[0]);
    std::copy(exchange.mapped(p).begin(), exchange.mapped(p).end(), payload.to);
  };
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
  params.rank = static_cast<int32_t>(plan.group().neighbors().rank);
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

// Payload `p`, one row per token and node; forwarders store it at all its places. `weights` are those of the
// landed rows' places, or null.
SendRecvPhase forwardedPhase(const Plan &plan, const Exchange &exchange, const fusco_payload &payload,
                             uint32_t p, const float *weights) {
  ScatterParams base{};
  base.offset = plan.device().landedOffset;
  base.places = plan.device().landedPlaces;
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
    report.direct_bytes += plan.directRows() * payload.row_bytes;
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
  exchange.end();
  countDispatch(plan.sizes(), call, report.stats);
}

}  // namespace fusco::nccl
