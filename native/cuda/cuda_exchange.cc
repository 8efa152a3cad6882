#include "cuda_exchange.hpp"

#include <algorithm>

#include "alignment.hpp"
#include "buffers.hpp"
#include "cuda_graph.hpp"
#include "failure.hpp"
#include "host_exchange.hpp"
#include "kernels.hpp"
#include "plan_layout.h"

namespace fusco::cuda {

namespace {

void checkReach(DevicePlan &slot, const char *name, const fusco_buffer *buffers) {
  for (uint32_t rank = 0; rank < slot.plan().ranks; rank++) {
    if (buffers[rank].bytes > 0) slot.context().checkReach(name, rank, buffers[rank].data);
  }
}

// Runs `launch(index, group)` on every device between the two edges of an exchange.
template <class F>
void onDevices(DevicePlan &slot, F launch, bool hasNext = false) {
  CudaContext &context = slot.context();
  for (size_t i = 0; i < context.groups().size(); i++) {
    const DeviceGroup &group = context.groups()[i];
    const OnDevice here(group.device);
    launch(i, group);
  }
  if (hasNext) context.betweenSteps();
}

// The edges themselves. In a capture the slot's own order is kept by the graph's launch.
class Edges {
 public:
  explicit Edges(DevicePlan &slot) : slot_(slot) {
    CudaContext &context = slot.context();
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    context.check(cudaStreamIsCapturing(context.leader(context.groups().front()), &status),
                  "asking for a capture");
    captured_ = status != cudaStreamCaptureStatusNone;
    context.ready();
    if (!captured_) slot.beginUse();
  }
  void done() {
    if (!captured_) slot_.endUse();
    slot_.context().done();
  }

 private:
  DevicePlan &slot_;
  bool captured_ = false;
};

bool goesByTiles(const DevicePlan &slot, const fusco_payload &payload, uint32_t unit) {
  return payload.per == FUSCO_PER_TOKEN && unit == 16 && payload.row_bytes >= minBulkRow &&
         slot.plan().topk <= maxTileEntries;
}

Payload payloadOf(DevicePlan &slot, const fusco_payload &payload, uint32_t index, bool forward) {
  const uint32_t ranks = slot.plan().ranks;
  Payload result{};
  result.rowBytes = payload.row_bytes;
  result.perEntry = payload.per == FUSCO_PER_ENTRY ? 1 : 0;
  result.dtype = payload.dtype;
  result.unit = unitOf(payload.row_bytes | bitsOf(payload.from, ranks) | bitsOf(payload.to, ranks));
  for (uint32_t rank = 0; rank < ranks; rank++) {
    result.from[rank] = bytesOf(payload.from[rank]);
    result.to[rank] = bytesOf(payload.to[rank]);
    if (forward && payload.per == FUSCO_PER_TOKEN) {
      result.to[maxRanks + rank] = slot.staging(rank, index, payload.row_bytes);
    }
  }
  return result;
}

// One launch's worth of payloads, those that go by tiles or are scaled first.
class DispatchLaunch {
 public:
  DispatchLaunch(DevicePlan &slot, const fusco_dispatch_call &call, uint32_t begin, uint32_t end,
                 bool forward)
      : slot_(slot), scaled_(call.scale != nullptr), forward_(forward) {
    std::vector<Payload> rest;
    for (uint32_t i = begin; i < end; i++) {
      const Payload payload = payloadOf(slot, call.payloads[i], i, forward);
      const bool isFirst =
          scaled_ ? payload.perEntry == 0 : goesByTiles(slot, call.payloads[i], payload.unit);
      if (isFirst) {
        params_.chunkBytes[params_.bulk] = chunkOf(payload.rowBytes);
        params_.payload[params_.bulk++] = payload;
      } else {
        rest.push_back(payload);
      }
    }
    params_.payloads = params_.bulk;
    for (const Payload &payload : rest) params_.payload[params_.payloads++] = payload;
    for (uint32_t rank = 0; rank < slot.plan().ranks; rank++) {
      if (call.origins != nullptr && begin == 0) {
        params_.hasOrigins = 1;
        params_.origins[rank] = reinterpret_cast<int32_t *>(call.origins[rank].data);
      }
      if (scaled_) params_.scale[rank] = reinterpret_cast<const float *>(call.scale[rank].data);
    }
  }

  uint32_t byTiles() const { return scaled_ ? 0 : params_.bulk; }

  void enqueue(bool spread) {
    CudaContext &context = slot_.context();
    onDevices(
        slot_,
        [&](size_t index, const DeviceGroup &group) {
          const PlanMemory &tables = slot_.tables(index);
          params_.plan = tables.view;
          params_.place = forward_ ? tables.view.stagedPlace : tables.view.place;
          params_.meeting = tables.meeting;
          const cudaStream_t stream = context.leader(group);
          if (spread) {
            context.check(launchSpread(params_, group.limits, stream), "launching the last hops");
          } else if (scaled_) {
            context.check(launchScaled(params_, group.limits, stream), "launching a scaled dispatch");
          } else {
            params_.tiling = tilingFor(group.limits);
            context.check(launchDispatch(params_, group.limits, stream), "launching a dispatch");
          }
        },
        forward_ && !spread);
  }

 private:
  Tiling tilingFor(const DeviceLimits &limits) const {
    uint32_t chunk = 16;
    for (uint32_t i = 0; i < params_.bulk; i++) chunk = std::max(chunk, params_.chunkBytes[i]);
    return chooseTiling(limits, slot_.plan().topk, chunk, forward_ ? 0 : slot_.tileTokens());
  }

  DevicePlan &slot_;
  bool scaled_;
  bool forward_;
  DispatchParams params_{};
};

}  // namespace

void checkDispatch(DevicePlan &slot, const fusco_dispatch_call &call) {
  const uint32_t ranks = slot.plan().ranks;
  checkDispatchCall(slot.plan(), call);
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    checkReach(slot, "from", payload.from);
    checkReach(slot, "to", payload.to);
    if (call.scale != nullptr && payload.per == FUSCO_PER_TOKEN) {
      checkAligned("payload", bitsOf(payload.from, ranks) | bitsOf(payload.to, ranks),
                   elementBytes(payload.dtype));
    }
  }
  if (call.origins != nullptr) {
    checkReach(slot, "origins", call.origins);
    checkAligned("origins", bitsOf(call.origins, ranks), 4);
  }
  if (call.scale != nullptr) {
    checkReach(slot, "scale", call.scale);
    checkAligned("scale", bitsOf(call.scale, ranks), weightBytes);
  }
}

void dispatch(DevicePlan &slot, fusco_cuda_path path, const fusco_dispatch_call &call,
              fusco_cuda_report &report) {
  checkDispatch(slot, call);
  if (path == FUSCO_CUDA_PATH_FORWARD && !slot.forwards()) {
    throw Failure(FUSCO_E_OPTION, "rows are forwarded along hierarchical plans with groups only");
  }
  // Between devices a row is cheaper sent once and copied on there; on one device that only copies it once
  // more.
  const bool several = slot.context().groups().size() > 1;
  const bool asked =
      path == FUSCO_CUDA_PATH_FORWARD || (path == FUSCO_CUDA_PATH_AUTO && several && slot.forwards());
  const bool forward = asked && call.scale == nullptr;
  std::vector<DispatchLaunch> launches;
  uint32_t begin = 0;
  do {
    const uint32_t end = std::min(begin + maxPayloads, call.payload_count);
    launches.emplace_back(slot, call, begin, end, forward);
    begin = end;
  } while (begin < call.payload_count);
  Edges edges(slot);
  for (DispatchLaunch &launch : launches) {
    launch.enqueue(false);
    if (forward) launch.enqueue(true);
    report.by_tiles += launch.byTiles();
  }
  edges.done();
  report.path = forward ? FUSCO_CUDA_PATH_FORWARD : FUSCO_CUDA_PATH_DIRECT;
  for (uint32_t p = 0; p < call.payload_count; p++) {
    const fusco_payload &payload = call.payloads[p];
    const uint64_t rows = payload.per == FUSCO_PER_ENTRY ? slot.plan().kept : slot.plan().tokens;
    report.stats.bytes_read += rows * payload.row_bytes;
    report.stats.bytes_written += slot.plan().kept * payload.row_bytes;
  }
  report.stats.rows = slot.plan().kept;
}

void checkCombine(DevicePlan &slot, const fusco_combine_call &call) {
  const uint32_t ranks = slot.plan().ranks;
  checkCombineCall(slot.plan(), call);
  checkReach(slot, "from", call.from);
  checkReach(slot, "to", call.to);
  checkAligned("from or to", bitsOf(call.from, ranks) | bitsOf(call.to, ranks), elementBytes(call.dtype));
  if (call.weights == nullptr) return;
  checkReach(slot, "weights", call.weights);
  checkAligned("weights", bitsOf(call.weights, ranks), weightBytes);
}

void combine(DevicePlan &slot, const fusco_combine_call &call, fusco_cuda_report &report) {
  checkCombine(slot, call);
  CudaContext &context = slot.context();
  const fusco_plan &plan = slot.plan();
  CombineParams params{};
  params.rowBytes = call.row_bytes;
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    params.from[rank] = bytesOf(call.from[rank]);
    params.to[rank] = bytesOf(call.to[rank]);
    if (call.weights != nullptr)
      params.weights[rank] = reinterpret_cast<const float *>(call.weights[rank].data);
  }
  const uint32_t unit = unitOf(call.row_bytes | bitsOf(call.from, plan.ranks) | bitsOf(call.to, plan.ranks));
  Edges edges(slot);
  onDevices(slot, [&](size_t index, const DeviceGroup &group) {
    params.plan = slot.tables(index).view;
    context.check(
        launchCombine(params, call.dtype, call.weights != nullptr, static_cast<uint32_t>(plan.tree), unit,
                      slot.capacityTokens(), 0, context.leader(group), group.limits.maxCombineSms),
        "launching a combine");
  });
  edges.done();
  report.path = FUSCO_CUDA_PATH_DIRECT;
  report.stats.bytes_read = plan.kept * call.row_bytes;
  report.stats.bytes_written = plan.tokens * call.row_bytes;
  report.stats.rows = plan.kept;
}

void checkWeightGradient(DevicePlan &slot, const fusco_weight_gradient_call &call) {
  const uint32_t ranks = slot.plan().ranks;
  checkWeightGradientCall(slot.plan(), call);
  checkReach(slot, "outputGradient", call.output_gradient);
  checkReach(slot, "from", call.from);
  checkReach(slot, "to", call.to);
  checkAligned("outputGradient or from", bitsOf(call.output_gradient, ranks) | bitsOf(call.from, ranks),
               elementBytes(call.dtype));
  checkAligned("to", bitsOf(call.to, ranks), weightBytes);
}

void weightGradient(DevicePlan &slot, const fusco_weight_gradient_call &call, fusco_cuda_report &report) {
  checkWeightGradient(slot, call);
  CudaContext &context = slot.context();
  const fusco_plan &plan = slot.plan();
  GradientParams params{};
  params.rowBytes = call.row_bytes;
  for (uint32_t rank = 0; rank < plan.ranks; rank++) {
    params.upstream[rank] = bytesOf(call.output_gradient[rank]);
    params.from[rank] = bytesOf(call.from[rank]);
    params.to[rank] = reinterpret_cast<float *>(call.to[rank].data);
  }
  Edges edges(slot);
  onDevices(slot, [&](size_t index, const DeviceGroup &group) {
    params.plan = slot.tables(index).view;
    context.check(launchGradient(params, group.limits, call.dtype, context.leader(group)),
                  "launching a gradient");
  });
  edges.done();
  report.path = FUSCO_CUDA_PATH_DIRECT;
  report.stats.bytes_read = (plan.kept + plan.tokens) * call.row_bytes;
  report.stats.bytes_written = plan.tokens * plan.topk * weightBytes;
  report.stats.rows = plan.kept;
}

}  // namespace fusco::cuda
