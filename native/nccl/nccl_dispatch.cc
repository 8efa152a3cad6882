#include <algorithm>

#include "exchange_frame.hpp"
#include "exchange_launch.hpp"
#include "host_exchange.hpp"

namespace fusco::nccl {

using cuda::DispatchParams;
using cuda::Payload;

namespace {

void checkDispatch(Plan &plan, const fusco_dispatch_call &call) {
  if (call.payload_count > mostPayloads) {
    throw Failure(FUSCO_E_LIMIT, "%u payloads in one dispatch", call.payload_count)
        .limited(call.payload_count, mostPayloads);
  }
  checkDispatchCall(plan.sizes(), call);
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    checkReach(plan, "from", payload.from);
    checkReach(plan, "to", payload.to);
    if (call.scale != nullptr && payload.per == FUSCO_PER_TOKEN) {
      checkAligned("payload", bitsOf(payload.from[0]) | bitsOf(payload.to[0]), elementBytes(payload.dtype));
    }
  }
  checkReach(plan, "origins", call.origins);
  checkReach(plan, "scale", call.scale);
  if (call.origins != nullptr) checkAligned("origins", bitsOf(call.origins[0]), 4);
  if (call.scale != nullptr) checkAligned("scale", bitsOf(call.scale[0]), weightBytes);
}

// Rows for ranks of the own host, straight into their slots, and the own padding.
class DirectDispatch {
 public:
  // `sharesDevice`: NCCL's kernels run meanwhile and need room on the sms.
  DirectDispatch(Plan &plan, const fusco_dispatch_call &call, const Exchange &exchange, bool sharesDevice)
      : plan_(plan), call_(call), exchange_(exchange), sharesDevice_(sharesDevice) {}

  void enqueue() {
    uint32_t begin = 0;
    do {
      const uint32_t end = std::min(begin + cuda::maxPayloads, call_.payload_count);
      enqueue(begin, end);
      begin = end;
    } while (begin < call_.payload_count);
  }

 private:
  bool isScaled() const { return call_.scale != nullptr; }

  Payload payloadOf(uint32_t p) const {
    const fusco_payload &payload = call_.payloads[p];
    const uint32_t self = plan_.group().near().self;
    Payload result{};
    result.rowBytes = payload.row_bytes;
    result.perEntry = payload.per == FUSCO_PER_ENTRY ? 1 : 0;
    result.dtype = payload.dtype;
    result.from[self] = bytesOf(payload.from[0]);
    uint64_t bits = payload.row_bytes | bitsOf(payload.from[0]);
    const std::vector<uint8_t *> &to = exchange_.mapped(p);
    for (size_t n = 0; n < to.size(); n++) {
      result.to[n] = to[n];
      bits |= bitsOf(to[n]);
    }
    result.unit = unitOf(bits);
    return result;
  }

  bool isFirst(const Payload &payload) const {
    if (payload.perEntry != 0) return false;
    return isScaled() || (payload.unit == 16 && payload.rowBytes >= cuda::minBulkRow &&
                          plan_.sizes().topk <= cuda::maxTileEntries);
  }

  void enqueue(uint32_t begin, uint32_t end) {
    Group &group = plan_.group();
    DispatchParams params{};
    params.plan = plan_.device().direct;
    params.place = params.plan.place;
    params.meeting = plan_.device().meeting;
    std::vector<Payload> rest;
    uint32_t chunk = 16;
    for (uint32_t p = begin; p < end; p++) {
      const Payload payload = payloadOf(p);
      if (!isFirst(payload)) {
        rest.push_back(payload);
        continue;
      }
      params.chunkBytes[params.bulk] = cuda::chunkOf(payload.rowBytes);
      chunk = std::max(chunk, params.chunkBytes[params.bulk]);
      params.payload[params.bulk++] = payload;
    }
    params.payloads = params.bulk;
    for (const Payload &payload : rest) params.payload[params.payloads++] = payload;
    const uint32_t self = group.near().self;
    if (call_.origins != nullptr && begin == 0) {
      params.hasOrigins = 1;
      const std::vector<uint8_t *> &to = exchange_.mapped(call_.payload_count);
      for (size_t n = 0; n < to.size(); n++) params.origins[n] = reinterpret_cast<int32_t *>(to[n]);
    }
    params.scale[self] = floatsOf(call_.scale);
    if (isScaled()) {
      group.must(cuda::launchScaled(params, group.limits(), group.direct()), "launching a scaled dispatch");
    } else {
      params.tiling = cuda::chooseTiling(group.limits(), plan_.sizes().topk, chunk, 0);
      if (sharesDevice_) params.tiling.blocksPerSm = 1;
      group.must(cuda::launchDispatch(params, group.limits(), group.direct()), "launching a dispatch");
    }
  }

  Plan &plan_;
  const fusco_dispatch_call &call_;
  const Exchange &exchange_;
  bool sharesDevice_;
};

// Rows for ranks of other hosts.
class WireDispatch {
 public:
  WireDispatch(Plan &plan, const fusco_dispatch_call &call, const Exchange &exchange)
      : plan_(plan), call_(call), exchange_(exchange) {
    const bool forwards = plan.tables().forwards;
    for (uint32_t p = 0; p < call.payload_count; p++) {
      const bool isRow = call.payloads[p].per == FUSCO_PER_TOKEN;
      if (forwards && isRow) {
        rows_.push_back(forwardedLeg(p));
      } else {
        entries_.push_back(entryLeg(p));
      }
    }
    if (call.origins != nullptr) entries_.push_back(originLeg());
    if (!plan.entriesOut().inPlace(rowBytesOf(entries_))) {
      for (SendRecvPhase &leg : entries_) leg.unpack = unpacker(leg);
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
    // Slots are aligned, rows in them are not where their size is odd.
    params.unit = unitOf(payload.row_bytes | bitsOf(payload.from[0]));
    params.dtype = payload.dtype;
    return params;
  }

  SendRecvPhase entryLeg(uint32_t p) {
    const fusco_payload &payload = call_.payloads[p];
    PackParams params = packing(p);
    params.index = plan_.device().entryStream;
    params.divide = payload.per == FUSCO_PER_ENTRY ? 1 : plan_.sizes().topk;
    if (payload.per == FUSCO_PER_TOKEN) params.scale = floatsOf(call_.scale);
    SendRecvPhase leg;
    leg.rowBytes = payload.row_bytes;
    leg.to = bytesOf(payload.to[0]);
    leg.pack = packer(params);
    return leg;
  }

  std::function<void(const Ranges &, uint8_t *)> packer(const PackParams &base) {
    return [this, base](const Ranges &ranges, uint8_t *slot) {
      PackParams params = base;
      params.ranges = ranges;
      params.to = slot;
      plan_.group().must(launchPack(params, plan_.group().packing()), "packing rows");
    };
  }

  SendRecvPhase originLeg() {
    SendRecvPhase leg;
    leg.rowBytes = originBytes;
    leg.to = bytesOf(call_.origins[0]);
    leg.pack = [this](const Ranges &ranges, uint8_t *slot) {
      OriginParams params{};
      params.ranges = ranges;
      params.index = plan_.device().entryStream;
      params.topk = plan_.sizes().topk;
      params.rank = static_cast<int32_t>(plan_.group().near().rank);
      params.to = reinterpret_cast<int32_t *>(slot);
      plan_.group().must(launchOrigins(params, plan_.group().packing()), "packing origins");
    };
    return leg;
  }

  // From a ring slot into the slots of the receive buffer, where messages do not end with runs.
  std::function<void(const Ranges &, const uint8_t *)> unpacker(const SendRecvPhase &leg) {
    return [this, to = leg.to, rowBytes = leg.rowBytes](const Ranges &ranges, const uint8_t *slot) {
      ScatterParams params{};
      params.ranges = ranges;
      params.slot = plan_.device().arrivalSlot;
      params.self = plan_.group().near().self;
      params.from = slot;
      params.rowBytes = rowBytes;
      params.unit = unitOf(rowBytes | bitsOf(to));
      params.to[params.self] = to;
      plan_.group().must(launchScatter(params, plan_.group().work()), "putting rows into their slots");
    };
  }

  SendRecvPhase forwardedLeg(uint32_t p) {
    PackParams params = packing(p);
    params.index = plan_.device().rowStream;
    params.divide = 1;
    SendRecvPhase leg;
    leg.rowBytes = call_.payloads[p].row_bytes;
    leg.pack = packer(params);
    leg.unpack = [this, p](const Ranges &ranges, const uint8_t *slot) { scatterRows(p, ranges, slot); };
    return leg;
  }

  void scatterRows(uint32_t p, const Ranges &ranges, const uint8_t *slot) {
    const fusco_payload &payload = call_.payloads[p];
    ScatterParams params{};
    params.ranges = ranges;
    params.offset = plan_.device().landedOffset;
    params.places = plan_.device().landedPlaces;
    params.from = slot;
    params.rowBytes = payload.row_bytes;
    params.scale = landedWeights_;
    params.dtype = payload.dtype;
    uint64_t bits = payload.row_bytes;
    const std::vector<uint8_t *> &to = exchange_.mapped(p);
    for (size_t n = 0; n < to.size(); n++) {
      params.to[n] = to[n];
      bits |= bitsOf(to[n]);
    }
    params.unit = unitOf(bits);
    plan_.group().must(launchScatter(params, plan_.group().work()), "scattering rows");
  }

  Plan &plan_;
  const fusco_dispatch_call &call_;
  const Exchange &exchange_;
  const float *landedWeights_ = nullptr;
  std::vector<SendRecvPhase> rows_;
  std::vector<SendRecvPhase> entries_;
};

}  // namespace

void dispatch(Plan &plan, const fusco_nccl_step &step, const fusco_dispatch_call &call,
              fusco_nccl_report &report, const fusco_nccl_peers *peers) {
  checkDispatch(plan, call);
  Exchange exchange(plan, step, report, peers);
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
  exchange.meet(buffers, rowBytes);
  exchange.begin();
  DirectDispatch direct(plan, call, exchange, wire.isUsed());
  exchange.beside([&direct] { direct.enqueue(); });
  if (!wire.rows().empty()) wire.setWeights(exchange.sendWeights(floatsOf(call.scale)));
  exchange.run(plan.rowsOut(), wire.rows());
  exchange.run(plan.entriesOut(), wire.entries());
  exchange.end();
  const fusco_plan &sizes = plan.sizes();
  const uint64_t near = sizes.kept - plan.tables().entrySend.total();
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    const uint64_t rows = payload.per == FUSCO_PER_ENTRY ? sizes.kept : sizes.tokens;
    report.stats.bytes_read += rows * payload.row_bytes;
    report.stats.bytes_written += sizes.kept * payload.row_bytes;
    report.direct_written += near * payload.row_bytes;
  }
  report.stats.rows = sizes.kept;
}

}  // namespace fusco::nccl
