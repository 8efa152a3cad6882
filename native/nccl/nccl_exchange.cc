#include "nccl_exchange.hpp"

#include <algorithm>

#include "buffers.hpp"
#include "exchange.hpp"
#include "failure.hpp"
#include "kernels.hpp"
#include "launch.hpp"
#include "transfer.hpp"

namespace fusco::nccl {

using cuda::DispatchParams;
using cuda::GradientParams;
using cuda::OnDevice;
using cuda::Payload;

namespace {

// More payloads than this would not fit on a board with the origins.
constexpr uint32_t mostPayloads = 60;

uint64_t bitsOf(const void *address) { return reinterpret_cast<uint64_t>(address); }

uint32_t unitOf(uint64_t bits) {
  const uint64_t low = bits & (~bits + 1);
  return low == 0 || low > 16 ? 16 : static_cast<uint32_t>(low);
}

void checkAligned(const char *name, uint64_t bits, uint32_t elementSize) {
  if (bits % elementSize == 0) return;
  throw Failure(FUSCO_E_BUFFER, "%s: an address is no multiple of %u bytes", name, elementSize)
      .limited(bits % elementSize, elementSize);
}

void checkReach(Plan &plan, const char *name, const fusco_buffer *buffers) {
  if (buffers == nullptr || buffers[0].bytes == 0) return;
  const std::lock_guard<std::mutex> lock(plan.group().context().mutex);
  plan.group().context().checkReach(name, 0, buffers[0].data);
}

uint8_t *bytesOf(const fusco_buffer *buffers) { return static_cast<uint8_t *>(buffers[0].data); }

const float *floatsOf(const fusco_buffer *buffers) {
  return buffers == nullptr ? nullptr : reinterpret_cast<const float *>(buffers[0].data);
}

// One exchange from its first check to its last row. The order of calls is that of the members.
class Exchange {
 public:
  Exchange(Plan &plan, const fusco_nccl_step &step, fusco_nccl_report &report, const fusco_nccl_peers *peers)
      : plan_(plan),
        group_(plan.group()),
        step_(step),
        here_(plan.group().device()),
        timeline_(plan.group(), peers != nullptr),
        traffic_{&report, peers},
        report_(report) {
    inputs_.create(group_.device(), false);
    near_.create(group_.device(), false);
    spread_.create(group_.device(), false);
    finished_.create(group_.device(), false);
    started_ = monotonicNs();
    group_.enter(step);
  }

  // Neighbours' buffers: mapped(i)[n] is buffer i of neighbour n.
  void meet(const std::vector<fusco_buffer> &buffers, const std::vector<uint64_t> &rowBytes) {
    group_.meet(step_, buffers, rowBytes, plan_.reach(), mapped_, &report_.ready_ns);
  }
  const std::vector<uint8_t *> &mapped(size_t buffer) const { return mapped_[buffer]; }

  // What is enqueued on the group's streams from here on sees the caller's inputs; on work() and direct() the
  // neighbours' as well.
  void begin() {
    group_.record(inputs_, group_.context().stream(0));
    group_.order(group_.wire(), inputs_);
    group_.order(group_.packing(), inputs_);
    group_.order(group_.work(), inputs_);
    group_.edge(Group::readyEdge);
    group_.record(near_, group_.work());
    group_.order(group_.direct(), near_);
  }
  // Packing that reads neighbours' memory has to wait for them.
  void packAfterNeighbours() { group_.order(group_.packing(), near_); }

  // Work on direct(): it starts when the first step is on the wire, which would otherwise wait for room.
  void beside(std::function<void()> work) { beside_ = std::move(work); }

  void run(const Route &route, const std::vector<Leg> &legs) {
    transfer(plan_, route, legs, timeline_, traffic_, [this] { startBeside(); });
  }

  // Brings one float an entry to the forwarders of the rows, or nothing where no row is forwarded. Returns
  // those that came, by place.
  const float *sendWeights(const float *weights) {
    if (weights == nullptr || !plan_.tables().forwards) return nullptr;
    uint8_t *sent = group_.arena(Use::weights).atLeast(weightArena());
    uint8_t *received = sent + alignSlot(plan_.placesSent() * sizeof(float));
    PackParams params{};
    params.ranges.count = 1;
    params.ranges.rows = static_cast<uint32_t>(plan_.placesSent());
    params.ranges.range[0] = {0, params.ranges.rows, 0};
    params.index = plan_.device().placeEntry;
    params.divide = 1;
    params.from = reinterpret_cast<const uint8_t *>(weights);
    params.to = sent;
    params.rowBytes = params.unit = sizeof(float);
    group_.must(launchPack(params, group_.wire()), "packing weights");
    group_.swap(sent, plan_.weightBytesSent(), received, plan_.weightBytesReceived());
    cuda::Event came;
    came.create(group_.device(), false);
    group_.record(came, group_.wire());
    group_.order(group_.work(), came);
    group_.order(group_.packing(), came);
    return reinterpret_cast<const float *>(received);
  }
  // Arenas grow before anything is enqueued.
  void reserveWeights(const void *weights) {
    if (weights != nullptr && plan_.tables().forwards) group_.arena(Use::weights).atLeast(weightArena());
  }

  // Waits for the last row, here and at the neighbours.
  void end() {
    startBeside();
    group_.record(spread_, group_.direct());
    group_.order(group_.work(), spread_);
    group_.edge(Group::doneEdge);
    group_.record(finished_, group_.work());
    group_.must(cudaStreamWaitEvent(group_.context().stream(0), finished_.get(), 0), "ordering a stream");
    group_.waitFor(finished_.get(), "an exchange");
    report_.stats.nanoseconds = monotonicNs() - started_;
    report_.stats.started = started_;
    timeline_.report(report_, traffic_.peers);
    if (traffic_.peers == nullptr || traffic_.peers->wait_ns == nullptr) return;
    const Neighbourhood &near = group_.near();
    for (uint32_t i = 0; i < near.local.size(); i++) {
      traffic_.peers->wait_ns[near.local[i]] += group_.lateness(step_, i);
    }
  }

 private:
  void startBeside() {
    if (beside_) beside_();
    beside_ = nullptr;
  }

  uint64_t weightArena() const {
    return alignSlot(plan_.placesSent() * sizeof(float)) + plan_.placesReceived() * sizeof(float) + 1;
  }

  Plan &plan_;
  Group &group_;
  const fusco_nccl_step step_;
  const OnDevice here_;
  Timeline timeline_;
  Traffic traffic_;
  fusco_nccl_report &report_;
  std::vector<std::vector<uint8_t *>> mapped_;
  cuda::Event inputs_;
  cuda::Event near_;
  cuda::Event spread_;
  cuda::Event finished_;
  std::function<void()> beside_;
  uint64_t started_ = 0;
};

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
      checkAligned("payload", bitsOf(payload.from[0].data) | bitsOf(payload.to[0].data),
                   elementBytes(payload.dtype));
    }
  }
  checkReach(plan, "origins", call.origins);
  checkReach(plan, "scale", call.scale);
  if (call.origins != nullptr) checkAligned("origins", bitsOf(call.origins[0].data), 4);
  if (call.scale != nullptr) checkAligned("scale", bitsOf(call.scale[0].data), weightBytes);
}

// Rows for ranks of the own host, straight into their slots, and the own padding.
class DirectDispatch {
 public:
  // `sharesDevice`: NCCL's kernels run meanwhile and need room on the multiprocessors.
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
    result.from[self] = bytesOf(payload.from);
    uint64_t bits = payload.row_bytes | bitsOf(payload.from[0].data);
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
    uint64_t rowBytes = 0;
    for (const Leg &leg : entries_) rowBytes += leg.rowBytes;
    if (!plan.entriesOut().inPlace(rowBytes)) {
      for (Leg &leg : entries_) leg.unpack = unpacker(leg);
    }
  }

  const std::vector<Leg> &rows() const { return rows_; }
  bool isUsed() const {
    return (!rows_.empty() && !plan_.rowsOut().isEmpty()) ||
           (!entries_.empty() && !plan_.entriesOut().isEmpty());
  }
  const std::vector<Leg> &entries() const { return entries_; }
  // For forwarded rows; before they are run.
  void setWeights(const float *weights) { landedWeights_ = weights; }

 private:
  PackParams packing(uint32_t p) const {
    const fusco_payload &payload = call_.payloads[p];
    PackParams params{};
    params.from = bytesOf(payload.from);
    params.rowBytes = payload.row_bytes;
    // Slots are aligned, rows in them are not where their size is odd.
    params.unit = unitOf(payload.row_bytes | bitsOf(payload.from[0].data));
    params.dtype = payload.dtype;
    return params;
  }

  Leg entryLeg(uint32_t p) {
    const fusco_payload &payload = call_.payloads[p];
    PackParams params = packing(p);
    params.index = plan_.device().entryStream;
    params.divide = payload.per == FUSCO_PER_ENTRY ? 1 : plan_.sizes().topk;
    if (payload.per == FUSCO_PER_TOKEN) params.scale = floatsOf(call_.scale);
    Leg leg;
    leg.rowBytes = payload.row_bytes;
    leg.to = bytesOf(payload.to);
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

  Leg originLeg() {
    Leg leg;
    leg.rowBytes = originBytes;
    leg.to = bytesOf(call_.origins);
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
  std::function<void(const Ranges &, const uint8_t *)> unpacker(const Leg &leg) {
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

  Leg forwardedLeg(uint32_t p) {
    PackParams params = packing(p);
    params.index = plan_.device().rowStream;
    params.divide = 1;
    Leg leg;
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
  std::vector<Leg> rows_;
  std::vector<Leg> entries_;
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

namespace {

// Rows of experts on their way home, one an entry: from where they lie, or packed where messages do not end
// with runs.
Leg returningLeg(Plan &plan, const uint8_t *from, uint64_t rowBytes, uint8_t *landing) {
  Leg leg;
  leg.rowBytes = rowBytes;
  leg.from = from;
  leg.to = landing;
  if (plan.entriesHome().inPlace(rowBytes)) return leg;
  leg.pack = [&plan, from, rowBytes](const Ranges &ranges, uint8_t *slot) {
    PackParams params{};
    params.ranges = ranges;
    params.index = plan.device().arrivalSlot;
    params.divide = 1;
    params.from = from;
    params.to = slot;
    params.rowBytes = rowBytes;
    params.unit = unitOf(rowBytes | bitsOf(from));
    plan.group().must(launchPack(params, plan.group().packing()), "packing rows of experts");
  };
  return leg;
}

struct Elements {
  uint32_t bytes;
  uint64_t landingBytes;  // of a row that comes home
};

void checkCombine(Plan &plan, const fusco_combine_call &call) {
  checkCombineCall(plan.sizes(), call);
  checkReach(plan, "from", call.from);
  checkReach(plan, "to", call.to);
  checkReach(plan, "weights", call.weights);
  checkAligned("from or to", bitsOf(call.from[0].data) | bitsOf(call.to[0].data), elementBytes(call.dtype));
  if (call.weights != nullptr) checkAligned("weights", bitsOf(call.weights[0].data), weightBytes);
}

// What sums of neighbours' rows have in common.
SumParams sumsOf(Plan &plan, const Exchange &exchange, uint64_t rowBytes, uint64_t landingBytes,
                 uint64_t &bits) {
  SumParams params{};
  params.rowBytes = rowBytes;
  params.landingRowBytes = landingBytes;
  bits = rowBytes;
  const std::vector<uint8_t *> &from = exchange.mapped(0);
  for (size_t n = 0; n < from.size(); n++) {
    params.from[n] = from[n];
    bits |= bitsOf(from[n]);
  }
  (void)plan;
  return params;
}

// A forwarder's partial sums, on their way to the homes of their tokens.
Leg partialLeg(Plan &plan, const fusco_combine_call &call, const Exchange &exchange, const Elements &elements,
               const float *const &weights, uint8_t *landing) {
  Leg leg;
  leg.rowBytes = elements.landingBytes;
  leg.to = landing;
  leg.pack = [&plan, &call, &exchange, &weights, elements](const Ranges &ranges, uint8_t *slot) {
    uint64_t bits = 0;
    SumParams params = sumsOf(plan, exchange, call.row_bytes, elements.landingBytes, bits);
    params.ranges = ranges;
    params.offset = plan.device().landedOffset;
    params.terms = plan.device().landedTerms;
    params.to = slot;
    params.weights = weights;
    const bool kept = plan.sizes().tree == Tree::kept;
    plan.group().must(launchSums(params, call.dtype, 0, kept, unitOf(bits), plan.group().packing()),
                      "adding partial sums");
  };
  return leg;
}

}  // namespace

void combine(Plan &plan, const fusco_nccl_step &step, const fusco_combine_call &call,
             fusco_nccl_report &report, const fusco_nccl_peers *peers) {
  checkCombine(plan, call);
  Exchange exchange(plan, step, report, peers);
  Group &group = plan.group();
  const bool forwards = plan.tables().forwards;
  const uint32_t size = elementBytes(call.dtype);
  const Elements elements{size, forwards ? plan.landingRowBytes(call.row_bytes, size) : call.row_bytes};
  const Route &route = forwards ? plan.rowsHome() : plan.entriesHome();
  uint8_t *landing = group.arena(Use::landing).atLeast(route.receive().total() * elements.landingBytes + 1);
  const float *landedWeights = nullptr;
  std::vector<Leg> legs(1);
  if (forwards) {
    legs[0] = partialLeg(plan, call, exchange, elements, landedWeights, landing);
  } else {
    legs[0] = returningLeg(plan, bytesOf(call.from), call.row_bytes, landing);
  }
  reserve(group, route, legs);
  exchange.reserveWeights(call.weights);
  exchange.meet({call.from[0]}, {call.row_bytes});
  exchange.begin();
  if (forwards) {
    exchange.packAfterNeighbours();
    landedWeights = exchange.sendWeights(floatsOf(call.weights));
  }
  exchange.run(route, legs);

  uint64_t bits = 0;
  SumParams params = sumsOf(plan, exchange, call.row_bytes, elements.landingBytes, bits);
  params.from[landingPeer] = landing;
  params.ranges.count = 1;
  params.ranges.rows = static_cast<uint32_t>(plan.sizes().tokens);
  params.ranges.range[0] = {0, params.ranges.rows, 0};
  params.offset = plan.device().homeOffset;
  params.terms = plan.device().homeTerms;
  params.to = bytesOf(call.to);
  params.weights = floatsOf(call.weights);
  const uint32_t unit = unitOf(bits | bitsOf(params.to));
  group.must(
      launchSums(params, call.dtype, static_cast<uint32_t>(plan.sizes().tree), false, unit, group.work()),
      "adding up at home");
  exchange.end();
  const fusco_plan &sizes = plan.sizes();
  report.direct_written = (sizes.kept - plan.tables().entrySend.total()) * call.row_bytes;
  report.stats.bytes_read = sizes.kept * call.row_bytes;
  report.stats.bytes_written = sizes.tokens * call.row_bytes;
  report.stats.rows = sizes.kept;
}

void weightGradient(Plan &plan, const fusco_nccl_step &step, const fusco_weight_gradient_call &call,
                    fusco_nccl_report &report, const fusco_nccl_peers *peers) {
  checkWeightGradientCall(plan.sizes(), call);
  checkReach(plan, "outputGradient", call.output_gradient);
  checkReach(plan, "from", call.from);
  checkReach(plan, "to", call.to);
  checkAligned("outputGradient or from", bitsOf(call.output_gradient[0].data) | bitsOf(call.from[0].data),
               elementBytes(call.dtype));
  checkAligned("to", bitsOf(call.to[0].data), weightBytes);
  Exchange exchange(plan, step, report, peers);
  Group &group = plan.group();
  // Rows come home one an entry under every strategy: a dot product needs the rows themselves.
  const Route &route = plan.entriesHome();
  uint8_t *landing = group.arena(Use::landing).atLeast(route.receive().total() * call.row_bytes + 1);
  const std::vector<Leg> legs{returningLeg(plan, bytesOf(call.from), call.row_bytes, landing)};
  reserve(group, route, legs);
  exchange.meet({call.from[0]}, {call.row_bytes});
  exchange.begin();
  exchange.run(route, legs);
  GradientParams params{};
  params.plan = plan.device().returned;
  params.rowBytes = call.row_bytes;
  const uint32_t self = group.near().self;
  const std::vector<uint8_t *> &from = exchange.mapped(0);
  for (size_t n = 0; n < from.size(); n++) params.from[n] = from[n];
  params.from[landingPeer] = landing;
  params.upstream[self] = bytesOf(call.output_gradient);
  params.to[self] = reinterpret_cast<float *>(call.to[0].data);
  group.must(cuda::launchGradient(params, group.limits(), call.dtype, group.work()), "launching a gradient");
  exchange.end();
  const fusco_plan &sizes = plan.sizes();
  report.stats.bytes_read = (sizes.kept + sizes.tokens) * call.row_bytes;
  report.stats.bytes_written = sizes.tokens * sizes.topk * weightBytes;
  report.stats.rows = sizes.kept;
}

}  // namespace fusco::nccl
