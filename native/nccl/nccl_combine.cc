#include "call_checks.hpp"
#include "exchange_frame.hpp"

namespace fusco::nccl {

using cuda::GradientParams;

namespace {

// Rows of experts on their way back, one per entry: sent in place, or packed if messages do not end with
// runs.
SendRecvPhase returningPhase(Plan &plan, const uint8_t *from, uint64_t rowBytes, uint8_t *landing) {
  SendRecvPhase phase;
  phase.rowBytes = rowBytes;
  phase.from = from;
  phase.to = landing;
  if (plan.entriesBack().inPlace(rowBytes)) return phase;
  phase.pack = [&plan, from, rowBytes](const Ranges &ranges, uint8_t *segment) {
    PackParams params{};
    params.ranges = ranges;
    params.index = plan.device().arrivalSlot;
    params.divide = 1;
    params.from = from;
    params.to = segment;
    params.rowBytes = rowBytes;
    params.unit = unitOf(rowBytes | bitsOf(from));
    plan.group().must(launchPack(params, plan.group().packStream()), "packing rows of experts");
  };
  return phase;
}

// What sums of neighbors' rows have in common.
SumParams sumsOf(const Exchange &exchange, uint64_t rowBytes, uint64_t landingBytes, uint64_t &bits) {
  SumParams params{};
  params.rowBytes = rowBytes;
  params.landingRowBytes = landingBytes;
  bits = rowBytes | copyAddresses(exchange.mapped(0), params.from);
  return params;
}

// A forwarder's partial sums, on their way back to the sources of their tokens. `weights` is read when rows
// are packed.
SendRecvPhase partialPhase(Plan &plan, const fusco_combine_call &call, const Exchange &exchange,
                           uint64_t landingBytes, const float *const &weights, uint8_t *landing) {
  SendRecvPhase phase;
  phase.rowBytes = landingBytes;
  phase.to = landing;
  phase.pack = [&plan, &call, &exchange, &weights, landingBytes](const Ranges &ranges, uint8_t *segment) {
    uint64_t bits = 0;
    SumParams params = sumsOf(exchange, call.row_bytes, landingBytes, bits);
    params.ranges = ranges;
    params.offset = plan.device().landedOffset;
    params.terms = plan.device().landedTerms;
    params.to = segment;
    params.weights = weights;
    const SumOutput output = plan.sizes().tree == Tree::kept ? SumOutput::f32 : SumOutput::payload;
    plan.group().must(
        launchSums(params, {call.dtype, Tree::none, output, unitOf(bits)}, plan.group().packStream()),
        "adding partial sums");
  };
  return phase;
}

}  // namespace

void combine(Plan &plan, const fusco_nccl_call &callId, const fusco_combine_call &call,
             fusco_nccl_report &report, const fusco_nccl_peers *peers) {
  cuda::checkDeviceCombine(plan.sizes(), call, reachOf(plan));
  Exchange exchange(plan, callId, report, peers);
  Group &group = plan.group();
  const bool forwards = plan.tables().forwards;
  const uint64_t landingBytes =
      forwards ? plan.landingRowBytes(call.row_bytes, elementBytes(call.dtype)) : call.row_bytes;
  const Route &route = forwards ? plan.rowsBack() : plan.entriesBack();
  uint8_t *landing = group.arena(Use::landing).atLeast(route.receive().total() * landingBytes + 1);
  const float *landedWeights = nullptr;
  std::vector<SendRecvPhase> phases(1);
  if (forwards) {
    phases[0] = partialPhase(plan, call, exchange, landingBytes, landedWeights, landing);
  } else {
    phases[0] = returningPhase(plan, bytesOf(call.from[0]), call.row_bytes, landing);
  }
  reserve(group, route, phases);
  exchange.reserveWeights(call.weights);
  exchange.shareBuffers({call.from[0]}, {call.row_bytes});
  exchange.begin();
  if (forwards) {
    exchange.packAfterNeighbors();
    landedWeights = exchange.sendWeights(floatsOf(call.weights));
  }
  exchange.run(route, phases);

  uint64_t bits = 0;
  SumParams params = sumsOf(exchange, call.row_bytes, landingBytes, bits);
  params.from[landingPeer] = landing;
  params.ranges = allRows(plan.sizes().tokens);
  params.offset = plan.device().sumOffset;
  params.terms = plan.device().sumTerms;
  params.to = bytesOf(call.to[0]);
  params.weights = floatsOf(call.weights);
  const SumLaunch launch = {call.dtype, plan.sizes().tree, SumOutput::payload,
                            unitOf(bits | bitsOf(params.to))};
  group.must(launchSums(params, launch, group.workStream()), "adding up the rows of tokens");
  exchange.end();
  report.direct_bytes = plan.directRows() * call.row_bytes;
  countCombine(plan.sizes(), call, report.stats);
}

void weightGradient(Plan &plan, const fusco_nccl_call &callId, const fusco_weight_gradient_call &call,
                    fusco_nccl_report &report, const fusco_nccl_peers *peers) {
  cuda::checkDeviceWeightGradient(plan.sizes(), call, reachOf(plan));
  Exchange exchange(plan, callId, report, peers);
  Group &group = plan.group();
  // Rows return one per entry under every strategy: a dot product needs the rows themselves.
  const Route &route = plan.entriesBack();
  uint8_t *landing = group.arena(Use::landing).atLeast(route.receive().total() * call.row_bytes + 1);
  const std::vector<SendRecvPhase> phases{
      returningPhase(plan, bytesOf(call.from[0]), call.row_bytes, landing)};
  reserve(group, route, phases);
  exchange.shareBuffers({call.from[0]}, {call.row_bytes});
  exchange.begin();
  exchange.run(route, phases);
  GradientParams params{};
  params.plan = plan.device().returned;
  params.rowBytes = call.row_bytes;
  const uint32_t self = group.neighbors().self;
  copyAddresses(exchange.mapped(0), params.from);
  params.from[landingPeer] = landing;
  params.upstream[self] = bytesOf(call.output_gradient[0]);
  params.to[self] = reinterpret_cast<float *>(call.to[0].data);
  group.must(cuda::launchGradient(params, group.limits(), call.dtype, group.workStream()),
             "launching a gradient");
  exchange.end();
  countWeightGradient(plan.sizes(), call, report.stats);
}

}  // namespace fusco::nccl
