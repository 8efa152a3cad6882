#include "call_checks.hpp"
#include "dispatch_params.hpp"
#include "exchange_frame.hpp"

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
  cuda::checkDeviceDispatch(plan.sizes(), call, reachOf(plan));
}

// Rows for neighbors, straight into their slots, and the padding of the local rank. `sharesDevice`: NCCL's
// kernels run at the same time and need room on the SMs.
void enqueueDirect(Plan &plan, const fusco_dispatch_call &call, const Exchange &exchange, bool sharesDevice) {
  Group &group = plan.group();
  const uint32_t self = group.neighbors().self;
  const uint32_t topk = plan.sizes().topk;
  DispatchParams base{};
  base.plan = plan.device().direct;
  base.place = base.plan.place;
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

// Rows for ranks that are not reached directly.
class WireDispatch {
 public:
  WireDispatch(Plan &plan, const fusco_dispatch_call &call, const Exchange &exchange)
      : plan_(plan), call_(call), exchange_(exchange) {
    const bool forwards = plan.tables().forwards;
    for (uint32_t p = 0; p < call.payload_count; p++) {
      const bool isRow = call.payloads[p].per == FUSCO_PER_TOKEN;
      if (forwards && isRow) {
        rows_.push_back(forwardedPhase(p));
      } else {
        entries_.push_back(entryPhase(p));
      }
    }
    if (call.origins != nullptr) entries_.push_back(originPhase());
    if (!plan.entriesOut().inPlace(rowBytesOf(entries_))) {
      for (SendRecvPhase &phase : entries_) phase.unpack = unpacker(phase);
    }
  }

  const std::vector<SendRecvPhase> &rows() const { return rows_; }
  bool isUsed() const {
    return (!rows_.empty() && !plan_.rowsOut().isEmpty()) ||
           (!entries_.empty() && !plan_.entriesOut().isEmpty());
  }
  const std::vector<SendRecvPhase> &entries() const { return entries_; }
  // For forwarded rows; before they are run.
  void setWeights(const float *weights) { landedWeights_ = weights; }

 private:
  PackParams packing(uint32_t p) const {
    const fusco_payload &payload = call_.payloads[p];
    PackParams params{};
    params.from = bytesOf(payload.from[0]);
    params.rowBytes = payload.row_bytes;
    // Slots are aligned; rows in them are not if their size is odd.
    params.unit = unitOf(payload.row_bytes | bitsOf(payload.from[0]));
    params.dtype = payload.dtype;
    return params;
  }

  SendRecvPhase entryPhase(uint32_t p) {
    const fusco_payload &payload = call_.payloads[p];
    PackParams params = packing(p);
    params.index = plan_.device().entryOrder;
    params.divide = payload.per == FUSCO_PER_ENTRY ? 1 : plan_.sizes().topk;
    if (payload.per == FUSCO_PER_TOKEN) params.scale = floatsOf(call_.scale);
    SendRecvPhase phase;
    phase.rowBytes = payload.row_bytes;
    phase.to = bytesOf(payload.to[0]);
    phase.pack = packer(params);
    return phase;
  }

  std::function<void(const Ranges &, uint8_t *)> packer(const PackParams &base) {
    return [this, base](const Ranges &ranges, uint8_t *segment) {
      PackParams params = base;
      params.ranges = ranges;
      params.to = segment;
      plan_.group().must(launchPack(params, plan_.group().packStream()), "packing rows");
    };
  }

  SendRecvPhase originPhase() {
    SendRecvPhase phase;
    phase.rowBytes = originBytes;
    phase.to = bytesOf(call_.origins[0]);
    phase.pack = [this](const Ranges &ranges, uint8_t *segment) {
      OriginParams params{};
      params.ranges = ranges;
      params.index = plan_.device().entryOrder;
      params.topk = plan_.sizes().topk;
      params.rank = static_cast<int32_t>(plan_.group().neighbors().rank);
      params.to = reinterpret_cast<int32_t *>(segment);
      plan_.group().must(launchOrigins(params, plan_.group().packStream()), "packing origins");
    };
    return phase;
  }

  // From a ring segment into the slots of the receive buffer, if messages do not end with runs.
  std::function<void(const Ranges &, const uint8_t *)> unpacker(const SendRecvPhase &phase) {
    return [this, to = phase.to, rowBytes = phase.rowBytes](const Ranges &ranges, const uint8_t *segment) {
      ScatterParams params{};
      params.ranges = ranges;
      params.slot = plan_.device().arrivalSlot;
      params.self = plan_.group().neighbors().self;
      params.from = segment;
      params.rowBytes = rowBytes;
      params.unit = unitOf(rowBytes | bitsOf(to));
      params.to[params.self] = to;
      plan_.group().must(launchScatter(params, plan_.group().workStream()), "putting rows into their slots");
    };
  }

  SendRecvPhase forwardedPhase(uint32_t p) {
    PackParams params = packing(p);
    params.index = plan_.device().rowOrder;
    params.divide = 1;
    SendRecvPhase phase;
    phase.rowBytes = call_.payloads[p].row_bytes;
    phase.pack = packer(params);
    phase.unpack = [this, p](const Ranges &ranges, const uint8_t *segment) {
      scatterRows(p, ranges, segment);
    };
    return phase;
  }

  void scatterRows(uint32_t p, const Ranges &ranges, const uint8_t *segment) {
    const fusco_payload &payload = call_.payloads[p];
    ScatterParams params{};
    params.ranges = ranges;
    params.offset = plan_.device().landedOffset;
    params.places = plan_.device().landedPlaces;
    params.from = segment;
    params.rowBytes = payload.row_bytes;
    params.scale = landedWeights_;
    params.dtype = payload.dtype;
    params.unit = unitOf(payload.row_bytes | copyAddresses(exchange_.mapped(p), params.to));
    plan_.group().must(launchScatter(params, plan_.group().workStream()), "scattering rows");
  }

  Plan &plan_;
  const fusco_dispatch_call &call_;
  const Exchange &exchange_;
  const float *landedWeights_ = nullptr;
  std::vector<SendRecvPhase> rows_;
  std::vector<SendRecvPhase> entries_;
};

}  // namespace

void dispatch(Plan &plan, const fusco_nccl_call &callId, const fusco_dispatch_call &call,
              fusco_nccl_report &report, const fusco_nccl_peers *peers) {
  checkDispatch(plan, call);
  Exchange exchange(plan, callId, report, peers);
  std::vector<fusco_buffer> buffers;
  std::vector<uint64_t> rowBytes;
  for (uint32_t p = 0; p < call.payload_count; p++) {
    buffers.push_back(call.payloads[p].to[0]);
    rowBytes.push_back(call.payloads[p].row_bytes);
  }
  if (call.origins != nullptr) {
    buffers.push_back(call.origins[0]);
    rowBytes.push_back(originBytes);
  }
  WireDispatch wire(plan, call, exchange);
  reserve(plan.group(), plan.rowsOut(), wire.rows());
  reserve(plan.group(), plan.entriesOut(), wire.entries());
  exchange.reserveWeights(call.scale);
  exchange.shareBuffers(buffers, rowBytes);
  exchange.begin();
  exchange.afterFirstRound([&] { enqueueDirect(plan, call, exchange, wire.isUsed()); });
  if (!wire.rows().empty()) wire.setWeights(exchange.sendWeights(floatsOf(call.scale)));
  exchange.run(plan.rowsOut(), wire.rows());
  exchange.run(plan.entriesOut(), wire.entries());
  exchange.end();
  countDispatch(plan.sizes(), call, report.stats);
  for (uint32_t p = 0; p < call.payload_count; p++) {
    report.direct_bytes += plan.directRows() * call.payloads[p].row_bytes;
  }
}

}  // namespace fusco::nccl
