#include "exchange_frame.hpp"
#include "exchange_launch.hpp"
#include "host_exchange.hpp"

namespace fusco::nccl {

using cuda::GradientParams;

namespace {

// Rows of experts on their way home, one an entry: from where they lie, or packed where messages do not end
// with runs.
SendRecvPhase returningLeg(Plan &plan, const uint8_t *from, uint64_t rowBytes, uint8_t *landing) {
  SendRecvPhase leg;
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
  checkAligned("from or to", bitsOf(call.from[0]) | bitsOf(call.to[0]), elementBytes(call.dtype));
  if (call.weights != nullptr) checkAligned("weights", bitsOf(call.weights[0]), weightBytes);
}

// What sums of neighbors' rows have in common.
SumParams sumsOf(const Exchange &exchange, uint64_t rowBytes, uint64_t landingBytes, uint64_t &bits) {
  SumParams params{};
  params.rowBytes = rowBytes;
  params.landingRowBytes = landingBytes;
  bits = rowBytes;
  const std::vector<uint8_t *> &from = exchange.mapped(0);
  for (size_t n = 0; n < from.size(); n++) {
    params.from[n] = from[n];
    bits |= bitsOf(from[n]);
  }
  return params;
}

// A forwarder's partial sums, on their way to the homes of their tokens.
SendRecvPhase partialLeg(Plan &plan, const fusco_combine_call &call, const Exchange &exchange,
                         const Elements &elements, const float *const &weights, uint8_t *landing) {
  SendRecvPhase leg;
  leg.rowBytes = elements.landingBytes;
  leg.to = landing;
  leg.pack = [&plan, &call, &exchange, &weights, elements](const Ranges &ranges, uint8_t *slot) {
    uint64_t bits = 0;
    SumParams params = sumsOf(exchange, call.row_bytes, elements.landingBytes, bits);
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
  std::vector<SendRecvPhase> legs(1);
  if (forwards) {
    legs[0] = partialLeg(plan, call, exchange, elements, landedWeights, landing);
  } else {
    legs[0] = returningLeg(plan, bytesOf(call.from[0]), call.row_bytes, landing);
  }
  reserve(group, route, legs);
  exchange.reserveWeights(call.weights);
  exchange.meet({call.from[0]}, {call.row_bytes});
  exchange.begin();
  if (forwards) {
    exchange.packAfterNeighbors();
    landedWeights = exchange.sendWeights(floatsOf(call.weights));
  }
  exchange.run(route, legs);

  uint64_t bits = 0;
  SumParams params = sumsOf(exchange, call.row_bytes, elements.landingBytes, bits);
  params.from[landingPeer] = landing;
  params.ranges.count = 1;
  params.ranges.rows = static_cast<uint32_t>(plan.sizes().tokens);
  params.ranges.range[0] = {0, params.ranges.rows, 0};
  params.offset = plan.device().homeOffset;
  params.terms = plan.device().homeTerms;
  params.to = bytesOf(call.to[0]);
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
  checkAligned("outputGradient or from", bitsOf(call.output_gradient[0]) | bitsOf(call.from[0]),
               elementBytes(call.dtype));
  checkAligned("to", bitsOf(call.to[0]), weightBytes);
  Exchange exchange(plan, step, report, peers);
  Group &group = plan.group();
  // Rows come home one an entry under every strategy: a dot product needs the rows themselves.
  const Route &route = plan.entriesHome();
  uint8_t *landing = group.arena(Use::landing).atLeast(route.receive().total() * call.row_bytes + 1);
  const std::vector<SendRecvPhase> legs{returningLeg(plan, bytesOf(call.from[0]), call.row_bytes, landing)};
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
  params.upstream[self] = bytesOf(call.output_gradient[0]);
  params.to[self] = reinterpret_cast<float *>(call.to[0].data);
  group.must(cuda::launchGradient(params, group.limits(), call.dtype, group.work()), "launching a gradient");
  exchange.end();
  const fusco_plan &sizes = plan.sizes();
  report.stats.bytes_read = (sizes.kept + sizes.tokens) * call.row_bytes;
  report.stats.bytes_written = sizes.tokens * sizes.topk * weightBytes;
  report.stats.rows = sizes.kept;
}

}  // namespace fusco::nccl
