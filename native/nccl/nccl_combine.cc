#include "call_checks.hpp"
#include "exchange_frame.hpp"
#include "peer_exchange.hpp"

namespace fusco::nccl {

using cuda::GradientParams;

namespace {

// Rows of experts that return to their tokens, one per entry: sent in place, or packed if messages do not end
// with runs.
SendRecvPhase returningPhase(const Plan &plan, const uint8_t *from, uint64_t rowBytes) {
  SendRecvPhase phase;
  phase.rowBytes = rowBytes;
  phase.from = from;
  if (!plan.entriesBack().inPlace(rowBytes)) {
    phase.pack = packedBy(launchPack, packOf(plan.device().arrivalSlot, 1, from, rowBytes));
  }
  return phase;
}

// Adds rows of neighbors, and of the landing buffer. `params` has the rest of the launch.
cudaError_t addRows(const Exchange &exchange, const fusco_combine_call &call, Tree tree, SumOutput output,
                    SumParams params, cudaStream_t stream) {
  params.rowBytes = call.row_bytes;
  const uint64_t bits = call.row_bytes | copyAddresses(exchange.mapped(0), params.from) | bitsOf(params.to);
  return launchSums(params, {call.dtype, tree, output, unitOf(bits)}, stream);
}

// A forwarder's partial sums, which return to the sources of their tokens. `weights` are those of the landed
// rows' places, or null.
SendRecvPhase partialPhase(const Plan &plan, const fusco_combine_call &call, const Exchange &exchange,
                           uint64_t landingBytes, const float *weights) {
  SendRecvPhase phase;
  phase.rowBytes = landingBytes;
  phase.pack = [&, weights](const Ranges &ranges, uint8_t *segment, cudaStream_t stream) {
    SumParams params{};
    params.ranges = ranges;
    params.offset = plan.device().landedOffset;
    params.terms = plan.device().landedTerms;
    params.to = segment;
    params.weights = weights;
    const SumOutput output = plan.sizes().tree == Tree::kept ? SumOutput::f32 : SumOutput::payload;
    return addRows(exchange, call, Tree::none, output, params, stream);
  };
  return phase;
}

// Makes room for the rows that `phase` brings back over `route`, and for its rings.
uint8_t *reserveLanding(Group &group, const Route &route, SendRecvPhase &phase) {
  phase.to = group.arena(Use::landing).atLeast(route.receive().total() * phase.rowBytes + 1);
  reserve(group, route, {phase});
  return phase.to;
}

}  // namespace

void combine(Plan &plan, const fusco_nccl_call &callId, const fusco_combine_call &call,
             fusco_nccl_report &report, const fusco_nccl_peers *peers) {
  cuda::checkDeviceCall(plan.sizes(), call, reachOf(plan));
  if (plan.isOnePass()) {
    combineFromPeers(plan, callId, call, report);
    return;
  }
  Exchange exchange(plan, callId, report, peers);
  Group &group = plan.group();
  const bool partials = plan.tables().returnsPartials();
  const uint64_t landingBytes =
      partials ? plan.landingRowBytes(call.row_bytes, elementBytes(call.dtype)) : call.row_bytes;
  const Route &route = partials ? plan.rowsBack() : plan.entriesBack();
  const float *landedWeights = partials ? exchange.reserveWeights(call.weights) : nullptr;
  SendRecvPhase phase = partials ? partialPhase(plan, call, exchange, landingBytes, landedWeights)
                                 : returningPhase(plan, bytesOf(call.from[0]), call.row_bytes);
  const uint8_t *landing = reserveLanding(group, route, phase);
  exchange.shareBuffers({{call.from[0], call.row_bytes}});
  exchange.begin();
  if (partials) exchange.packAfterNeighbors();
  exchange.sendWeights(call.weights);
  exchange.run(route, {phase});

  SumParams params{};
  params.landingRowBytes = landingBytes;
  params.from[landingPeer] = landing;
  params.ranges = allRows(plan.sizes().tokens);
  params.offset = plan.device().sumOffset;
  params.terms = plan.device().sumTerms;
  params.to = bytesOf(call.to[0]);
  params.weights = floatsOf(call.weights);
  group.must(addRows(exchange, call, plan.sizes().tree, SumOutput::payload, params, group.workStream()),
             "adding up the rows of tokens");
  exchange.end();
  report.direct_bytes = plan.directRows() * call.row_bytes;
  countCombine(plan.sizes(), call, report.stats);
}

void weightGradient(Plan &plan, const fusco_nccl_call &callId, const fusco_weight_gradient_call &call,
                    fusco_nccl_report &report, const fusco_nccl_peers *peers) {
  cuda::checkDeviceCall(plan.sizes(), call, reachOf(plan));
  if (plan.isOnePass()) {
    weightGradientFromPeers(plan, callId, call, report);
    return;
  }
  Exchange exchange(plan, callId, report, peers);
  Group &group = plan.group();
  // Rows return one per entry under every strategy: a dot product needs the rows themselves.
  const Route &route = plan.entriesBack();
  SendRecvPhase phase = returningPhase(plan, bytesOf(call.from[0]), call.row_bytes);
  const uint8_t *landing = reserveLanding(group, route, phase);
  exchange.shareBuffers({{call.from[0], call.row_bytes}});
  exchange.begin();
  exchange.run(route, {phase});
  GradientParams params{};
  params.plan = plan.device().returned;
  params.rowBytes = call.row_bytes;
  const uint32_t self = group.neighbors().self;
  const uint64_t bits = call.row_bytes | copyAddresses(exchange.mapped(0), params.from) |
                        bitsOf(call.output_gradient[0]) | bitsOf(landing);
  params.from[landingPeer] = landing;
  params.upstream[self] = bytesOf(call.output_gradient[0]);
  params.to[self] = reinterpret_cast<float *>(call.to[0].data);
  group.must(cuda::launchGradient(params, group.limits(), call.dtype, unitOf(bits), group.workStream()),
             "launching a gradient");
  exchange.end();
  countWeightGradient(plan.sizes(), call, report.stats);
}

void combineGradient(Plan &plan, const fusco_nccl_call &callId, const fusco_combine_gradient_call &call,
                     fusco_nccl_report &report, const fusco_nccl_peers *peers) {
  cuda::checkDeviceCall(plan.sizes(), call, reachOf(plan));
  if (plan.isOnePass()) {
    combineGradientFromPeers(plan, callId, call, report);
    return;
  }
  const CombineGradientParts parts(call);
  dispatch(plan, callId, parts.dispatch, report, peers);
  const fusco_stats first = report.stats;
  weightGradient(plan, callId, parts.weightGradient, report, peers);
  report.stats.started = first.started;
  report.stats.nanoseconds += first.nanoseconds;
  countCombineGradient(plan.sizes(), call, report.stats);
}

}  // namespace fusco::nccl
