#include "peer_exchange.hpp"

#include <algorithm>

#include "call_checks.hpp"
#include "device_call_checks.hpp"
#include "dispatch_params.hpp"
#include "edges.hpp"
#include "exchange_frame.hpp"
#include "kernels.hpp"
#include "one_pass_exchange.hpp"
#include "one_pass_gradient.hpp"

namespace fusco::nccl {

using cuda::CombineLaunch;
using cuda::CombineParams;
using cuda::DispatchParams;
using cuda::GradientParams;
using cuda::MoveParams;
using cuda::OnePassShape;
using cuda::Payload;

namespace {

// SMs that reach the bandwidth of the links when rows are read through them.
constexpr uint32_t enoughToRead = 16;

// Rows are read and written with the widest access that their size allows, also by other ranks, which do not
// know this rank's addresses when they choose it.
void checkRowsAligned(const char *name, const fusco_buffer &buffer, uint64_t rowBytes) {
  if (buffer.bytes > 0) cuda::checkAligned(name, cuda::bitsOf(buffer), cuda::unitOf(rowBytes));
}

// One call on the caller's stream.
class PeerCall {
 public:
  PeerCall(Plan &plan, const fusco_nccl_call &id, fusco_nccl_report &report)
      : plan_(plan),
        group_(plan.group()),
        id_(id),
        report_(report),
        here_(plan.group().device()),
        stream_(group_.context().stream(0)),
        startedNs_(monotonicNs()) {
    group_.enter(id);
    group_.followStream(stream_);
  }

  cudaStream_t stream() const { return stream_; }
  const OnePassShape &shape(decltype(cuda::dispatchShape) choose, uint32_t payloads = 1) {
    const cuda::CudaContext &context = group_.context();
    shape_ = choose({group_.neighbors().count(), group_.limits().sms, context.hasSmLimit(),
                     plan_.sizes().topk, plan_.maxTokens(), payloads});
    return shape_;
  }
  void reserve(const PeerNeed &need) { group_.peers().reserve(id_, need); }
  // Of launch `launch` of the call. What must be equal on all ranks goes into the digest.
  cuda::OnePassCommon common(uint64_t launch) const {
    const uint64_t chunk = shape_.chunkTokens;
    const uint64_t digest = id_.digest ^ (launch << 32 | chunk) * 0x9e3779b97f4a7c15u;
    return group_.peers().common(plan_.device().onePass, shape_.chunkTokens, digest);
  }
  // Tells the other ranks that buffer `index` of the launch is `buffer`.
  void tell(const fusco_buffer &buffer, uint32_t index, cuda::ToldAddresses &told) {
    const Neighbors &neighbors = group_.neighbors();
    const PostedBuffer shared =
        group_.registry().share(buffer, group_.waiting("mapping memory of this rank"));
    for (uint32_t i = 0; i < neighbors.count(); i++) {
      if (i != neighbors.self) told.of[i][index] = group_.registry().addressAt(i, shared);
    }
  }
  // The same for kernels between edges.
  void tell(const fusco_buffer &buffer, uint32_t index, cuda::EdgeParams &edge) {
    tell(buffer, index, edge.told);
    edge.here[index] = cuda::bitsOf(buffer);
  }
  // Enqueues `launch` between the edges.
  template <class F>
  void betweenEdges(cuda::EdgeParams &edge, uint64_t number, const char *what, F launch) {
    edge.common = common(number);
    edge.addresses = group_.peers().addresses();
    group_.must(cuda::launchBeginEdge(edge, stream_), what);
    group_.must(launch(), what);
    group_.must(cuda::launchEndEdge(edge.common, stream_), what);
  }
  void end() {
    group_.leaveStream(stream_);
    report_.enqueued = 1;
    report_.stats.started = startedNs_;
    report_.stats.nanoseconds = monotonicNs() - startedNs_;
  }

 private:
  Plan &plan_;
  Group &group_;
  const fusco_nccl_call &id_;
  fusco_nccl_report &report_;
  const OnDevice here_;
  const cudaStream_t stream_;
  const uint64_t startedNs_;
  OnePassShape shape_{};
};

PeerNeed moveNeed(const Plan &plan, uint32_t chunkTokens, uint32_t slices) {
  return {cuda::onePassFlags(plan.group().neighbors().ranks, plan.maxTokens(), chunkTokens, slices), 0, 0};
}

PeerNeed gradientNeed(const Plan &plan, uint32_t chunkTokens) {
  PeerNeed need = moveNeed(plan, chunkTokens, cuda::gradientFlags);
  need.pushedEntries = plan.allTokens() * plan.sizes().topk;
  return need;
}

PeerNeed sumNeed(const Plan &plan, const fusco_combine_call &call, uint32_t chunkTokens) {
  const bool keepsPartials = plan.sizes().tree == Tree::kept;
  const uint64_t elements = call.row_bytes / elementBytes(call.dtype);
  const uint64_t perSlice = cuda::sumSliceElements(call.dtype, keepsPartials);
  const uint64_t slices = (elements + perSlice - 1) / perSlice;
  return {cuda::onePassFlags(plan.group().neighbors().ranks, plan.maxTokens(), chunkTokens, slices),
          call.weights == nullptr ? 0 : plan.allTokens() * plan.sizes().topk,
          plan.mostLandingRows() * plan.landingRowBytes(call.row_bytes, elementBytes(call.dtype))};
}

// The receive rows that a payload of a launch goes to.
fusco_buffer receiveRows(const Plan &plan, uint8_t *to, uint64_t rowBytes) {
  return {to, plan.sizes().rank[0].recvRows * rowBytes};
}

// Rows once to each rank, which copies them on.
void moveOnce(Plan &plan, PeerCall &peer, uint64_t number, const DispatchParams &params) {
  Group &group = plan.group();
  const OnePassShape shape = peer.shape(cuda::dispatchShape, params.leading);
  MoveParams move{};
  move.dispatch = params;
  move.lag = shape.lag;
  cuda::addSlices(move);
  peer.reserve(moveNeed(plan, shape.chunkTokens, move.slices));
  const uint32_t self = group.neighbors().self;
  for (uint32_t i = 0; i < params.payloads; i++) {
    const Payload &payload = params.payload[i];
    peer.tell(receiveRows(plan, payload.to[self], payload.rowBytes), i, move.told);
  }
  move.common = peer.common(number);
  group.must(cuda::launchMove(move, shape.grid, peer.stream()), "launching a dispatch");
}

// The launches of a dispatch, with the local rank's addresses.
std::vector<DispatchParams> launchesOf(const Plan &plan, const fusco_dispatch_call &call) {
  const uint32_t self = plan.group().neighbors().self;
  DispatchParams base{};
  base.plan = plan.device().direct;
  base.scale[self] = floatsOf(call.scale);
  if (call.origins != nullptr) base.origins[self] = static_cast<int32_t *>(call.origins[0].data);
  const auto fill = [&](uint32_t p, Payload &payload) {
    // The address of no rows must not narrow the accesses, which are those of all ranks.
    const auto addressOf = [](const fusco_buffer &rows) { return rows.bytes > 0 ? bytesOf(rows) : nullptr; };
    payload.from[self] = addressOf(call.payloads[p].from[0]);
    payload.to[self] = addressOf(call.payloads[p].to[0]);
  };
  return cuda::dispatchParams(call, plan.sizes().topk, base, fill, cuda::minOnePassTmaRow);
}

// Each row, scaled, straight to all of its slots.
void moveScaled(Plan &plan, PeerCall &peer, uint64_t number, DispatchParams &params) {
  Group &group = plan.group();
  const uint32_t self = group.neighbors().self;
  cuda::EdgeParams edge{};
  for (uint32_t i = 0; i < params.payloads; i++) {
    const Payload &payload = params.payload[i];
    peer.tell(receiveRows(plan, payload.to[self], payload.rowBytes), i, edge);
  }
  if (params.hasOrigins != 0) {
    auto *origins = reinterpret_cast<uint8_t *>(params.origins[self]);
    peer.tell(receiveRows(plan, origins, originBytes), cuda::maxPayloads, edge);
  }
  params.peers = group.peers().rows();
  peer.betweenEdges(edge, number, "launching a scaled dispatch",
                    [&] { return cuda::launchScaled(params, group.limits(), peer.stream()); });
}

}  // namespace

void reservePeerMemory(Plan &plan, const fusco_nccl_call &id, uint64_t rowBytes) {
  if (rowBytes == 0) return;
  const auto slices = static_cast<uint32_t>(rowBytes / cuda::moveSliceBytes + 1);
  PeerNeed need = moveNeed(plan, 1, slices);
  if (plan.sumsPerRank()) {
    fusco_combine_call call = fusco_sized<fusco_combine_call>();
    const fusco_buffer weights{};
    call.dtype = FUSCO_DTYPE_BF16;
    call.row_bytes = rowBytes;
    call.weights = &weights;
    const PeerNeed sum = sumNeed(plan, call, 1);
    need = {std::max(need.flags, sum.flags), sum.pushedEntries, sum.landingBytes};
  }
  plan.group().peers().reserve(id, need);
}

void dispatchToPeers(Plan &plan, const fusco_nccl_call &id, const fusco_dispatch_call &call,
                     fusco_nccl_report &report) {
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    checkRowsAligned("from", payload.from[0], payload.row_bytes);
    checkRowsAligned("to", payload.to[0], payload.row_bytes);
  }
  PeerCall peer(plan, id, report);
  uint64_t number = 0;
  for (DispatchParams &params : launchesOf(plan, call)) {
    if (call.scale != nullptr) {
      moveScaled(plan, peer, number++, params);
    } else {
      moveOnce(plan, peer, number++, params);
    }
  }
  peer.end();
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    const bool isOnce = call.scale == nullptr && payload.per == FUSCO_PER_TOKEN;
    report.direct_bytes += (isOnce ? plan.rowsOnce() : plan.directRows()) * payload.row_bytes;
  }
  countDispatch(plan.sizes(), call, report.stats);
}

void combineFromPeers(Plan &plan, const fusco_nccl_call &id, const fusco_combine_call &call,
                      fusco_nccl_report &report) {
  Group &group = plan.group();
  const uint32_t self = group.neighbors().self;
  checkRowsAligned("from", call.from[0], call.row_bytes);
  checkRowsAligned("to", call.to[0], call.row_bytes);
  PeerCall peer(plan, id, report);
  const OnePassShape shape = peer.shape(cuda::combineShape);
  if (plan.sumsPerRank() && cuda::unitOf(call.row_bytes) == 16) {
    peer.reserve(sumNeed(plan, call, shape.chunkTokens));
    cuda::SumParams sum{};
    sum.rowBytes = call.row_bytes;
    sum.senders = shape.senders;
    sum.isWeighted = call.weights != nullptr ? 1 : 0;
    sum.addsOwnFirst = cuda::mayAddOwnFirst(1, plan.sizes().topk);
    sum.from[self] = bytesOf(call.from[0]);
    sum.to[self] = bytesOf(call.to[0]);
    sum.weights[self] = floatsOf(call.weights);
    group.peers().addSum(sum);
    sum.common = peer.common(0);
    group.must(cuda::launchSum(sum, call.dtype, plan.sizes().tree == Tree::kept, shape.grid, peer.stream()),
               "launching a combine");
    report.direct_bytes = plan.rowsOnce() * call.row_bytes;
  } else {
    CombineParams params{};
    params.plan = plan.device().direct;
    params.peers = group.peers().rows();
    params.rowBytes = call.row_bytes;
    params.to[self] = bytesOf(call.to[0]);
    params.weights[self] = floatsOf(call.weights);
    CombineLaunch launch;
    launch.dtype = call.dtype;
    launch.tree = plan.sizes().tree;
    launch.isWeighted = call.weights != nullptr;
    launch.unit = cuda::unitOf(call.row_bytes);
    launch.tokens = plan.sizes().tokens;
    launch.sms =
        group.context().hasSmLimit() ? group.limits().sms : std::min(enoughToRead, group.limits().sms);
    cuda::EdgeParams edge{};
    peer.tell(call.from[0], 0, edge);
    peer.betweenEdges(edge, 0, "launching a combine",
                      [&] { return cuda::launchCombine(params, launch, peer.stream()); });
    report.direct_bytes = plan.directRows() * call.row_bytes;
  }
  peer.end();
  countCombine(plan.sizes(), call, report.stats);
}

namespace {

// Every entry's row of experts is read from its rank.
void readProducts(Plan &plan, PeerCall &peer, uint64_t number, const fusco_weight_gradient_call &call) {
  Group &group = plan.group();
  const uint32_t self = group.neighbors().self;
  GradientParams params{};
  params.plan = plan.device().direct;
  params.peers = group.peers().rows();
  params.rowBytes = call.row_bytes;
  params.upstream[self] = bytesOf(call.output_gradient[0]);
  params.to[self] = static_cast<float *>(call.to[0].data);
  cuda::EdgeParams edge{};
  peer.tell(call.from[0], 0, edge);
  peer.betweenEdges(edge, number, "launching a gradient", [&] {
    return cuda::launchGradient(params, group.limits(), call.dtype, cuda::unitOf(call.row_bytes),
                                peer.stream());
  });
}

// Rows of the output gradient once to each rank, which forms the products.
void formProducts(Plan &plan, PeerCall &peer, const fusco_combine_gradient_call &call,
                  const DispatchParams &dispatch) {
  Group &group = plan.group();
  const uint32_t self = group.neighbors().self;
  const OnePassShape shape = peer.shape(cuda::gradientShape);
  peer.reserve(gradientNeed(plan, shape.chunkTokens));
  cuda::CombineGradientParams params{};
  params.dispatch = dispatch;
  params.lag = shape.lag;
  params.rows[self] = bytesOf(call.from[0]);
  params.weightsGradient[self] = static_cast<float *>(call.weights_gradient[0].data);
  group.peers().addGradient(params);
  peer.tell(call.to[0], 0, params.told);
  peer.tell(call.weights_gradient[0], 1, params.told);
  params.common = peer.common(0);
  group.must(cuda::launchCombineGradient(params, shape.grid, peer.stream()), "launching a combine gradient");
}

}  // namespace

void weightGradientFromPeers(Plan &plan, const fusco_nccl_call &id, const fusco_weight_gradient_call &call,
                             fusco_nccl_report &report) {
  checkRowsAligned("outputGradient", call.output_gradient[0], call.row_bytes);
  checkRowsAligned("from", call.from[0], call.row_bytes);
  PeerCall peer(plan, id, report);
  readProducts(plan, peer, 0, call);
  peer.end();
  report.direct_bytes = plan.directRows() * call.row_bytes;
  countWeightGradient(plan.sizes(), call, report.stats);
}

void combineGradientFromPeers(Plan &plan, const fusco_nccl_call &id, const fusco_combine_gradient_call &call,
                              fusco_nccl_report &report) {
  checkRowsAligned("outputGradient", call.output_gradient[0], call.row_bytes);
  checkRowsAligned("from", call.from[0], call.row_bytes);
  checkRowsAligned("to", call.to[0], call.row_bytes);
  const CombineGradientParts parts(call);
  PeerCall peer(plan, id, report);
  DispatchParams dispatch = launchesOf(plan, parts.dispatch).front();
  const bool isOnce = cuda::unitOf(call.row_bytes) == 16;
  if (isOnce) {
    formProducts(plan, peer, call, dispatch);
  } else {
    moveScaled(plan, peer, 0, dispatch);
    readProducts(plan, peer, 1, parts.weightGradient);
  }
  peer.end();
  report.direct_bytes = (isOnce ? plan.rowsOnce() : 2 * plan.directRows()) * call.row_bytes;
  countCombineGradient(plan.sizes(), call, report.stats);
}

}  // namespace fusco::nccl
