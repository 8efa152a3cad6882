#include <algorithm>

#include "element_device.cuh"
#include "failure.hpp"
#include "fusco_cuda_bench.h"
#include "guard.hpp"
#include "host_exchange.hpp"
#include "unfused.hpp"

namespace fusco::cuda {

namespace {

struct Rows {
  uint8_t *of[maxRanks];
};

// A warp for each row: between a row of some rank and a row of one long buffer, in either direction.
template <bool toRanks>
__global__ void permute(const Place *places, uint64_t rows, Rows ranks, uint8_t *buffer, uint64_t rowBytes) {
  const uint32_t lane = threadIdx.x % 32;
  const uint64_t warps = gridDim.x * uint64_t{blockDim.x} / 32;
  const uint64_t units = rowBytes / 16;
  for (uint64_t i = (blockIdx.x * uint64_t{blockDim.x} + threadIdx.x) / 32; i < rows; i += warps) {
    const Place place = places[i];
    auto *there =
        reinterpret_cast<uint4 *>(ranks.of[place.peer] + static_cast<uint64_t>(place.row) * rowBytes);
    auto *here = reinterpret_cast<uint4 *>(buffer + i * rowBytes);
    const uint4 *from = toRanks ? here : there;
    uint4 *to = toRanks ? there : here;
#pragma unroll 8
    for (uint64_t at = lane; at < units; at += 32) storeOnce(to + at, loadOnce(from + at));
  }
}

template <class T>
T *uploaded(CudaContext &context, std::vector<void *> &owned, const std::vector<T> &values) {
  void *at = context.allocRaw(0, values.size() * sizeof(T));
  owned.push_back(at);
  context.check(cudaMemcpy(at, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
                "uploading");
  return static_cast<T *>(at);
}

Rows rowsOf(const fusco_buffer *buffers, uint32_t ranks) {
  Rows rows{};
  for (uint32_t rank = 0; rank < ranks; rank++) rows.of[rank] = static_cast<uint8_t *>(buffers[rank].data);
  return rows;
}

}  // namespace

Unfused::Unfused(std::shared_ptr<DevicePlan> devicePlan, uint64_t rowBytes)
    : devicePlan_(std::move(devicePlan)), rowBytes_(rowBytes) {
  CudaContext &context = devicePlan_->context();
  const fusco_plan &plan = devicePlan_->plan();
  if (rowBytes == 0 || rowBytes % 16 != 0 || context.groups().size() != 1) {
    throw Failure(FUSCO_E_OPTION, "the unfused pipeline takes rows of whole 16 bytes on one device");
  }
  struct Row {
    uint32_t source, token, peer;
    int32_t slot;
    uint64_t entry;
  };
  std::vector<Row> rows;
  uint64_t entry = 0;
  for (uint32_t source = 0; source < plan.ranks; source++) {
    const auto &places = plan.rank[source].places;
    for (size_t e = 0; e < places.size(); e++, entry++) {
      if (places[e].row < 0) continue;
      rows.push_back({source, static_cast<uint32_t>(e / plan.topk), places[e].peer, places[e].row, entry});
    }
  }
  rows_ = rows.size();
  std::sort(rows.begin(), rows.end(), [](const Row &a, const Row &b) {
    return std::tie(a.source, a.peer, a.slot) < std::tie(b.source, b.peer, b.slot);
  });
  std::vector<Place> sources;
  std::vector<Place> packedAt(entry, Place{0, -1});
  std::vector<std::vector<uint64_t>> counts(plan.ranks, std::vector<uint64_t>(plan.ranks, 0));
  for (const Row &row : rows) {
    packedAt[row.entry] = {0, static_cast<int32_t>(sources.size())};
    sources.push_back({row.source, static_cast<int32_t>(row.token)});
    counts[row.source][row.peer]++;
  }
  uint64_t sent = 0;
  for (uint32_t source = 0; source < plan.ranks; source++) {
    for (uint32_t peer = 0; peer < plan.ranks; peer++) {
      uint64_t arrived = 0;
      for (uint32_t p = 0; p < peer; p++) {
        for (uint32_t s = 0; s < plan.ranks; s++) arrived += counts[s][p];
      }
      for (uint32_t s = 0; s < source; s++) arrived += counts[s][peer];
      const uint64_t count = counts[source][peer];
      if (count > 0) blocks_.push_back({sent * rowBytes, arrived * rowBytes, count * rowBytes});
      sent += count;
    }
  }
  std::sort(rows.begin(), rows.end(), [](const Row &a, const Row &b) {
    return std::tie(a.peer, a.source, a.slot) < std::tie(b.peer, b.source, b.slot);
  });
  std::vector<Place> slots;
  for (const Row &row : rows) slots.push_back({row.peer, row.slot});
  for (uint8_t **buffer : {&packed_, &arrived_}) {
    owned_.push_back(context.allocRaw(0, rows_ * rowBytes));
    *buffer = static_cast<uint8_t *>(owned_.back());
  }
  sourceOf_ = uploaded(context, owned_, sources);
  slotOf_ = uploaded(context, owned_, slots);
  packedAt_ = uploaded(context, owned_, packedAt);
}

Unfused::~Unfused() {
  cudaDeviceSynchronize();
  for (void *at : owned_) cudaFree(at);
}

void Unfused::dispatch(const fusco_buffer *from, const fusco_buffer *to) {
  CudaContext &context = devicePlan_->context();
  const DeviceGroup &group = context.groups().front();
  const cudaStream_t stream = context.leader(group);
  const uint32_t blocks = group.limits.sms * 8;
  context.ready();
  permute<false>
      <<<blocks, 256, 0, stream>>>(sourceOf_, rows_, rowsOf(from, context.ranks()), packed_, rowBytes_);
  for (const Block &block : blocks_) {
    context.check(cudaMemcpyAsync(arrived_ + block.arrived, packed_ + block.sent, block.bytes,
                                  cudaMemcpyDeviceToDevice, stream),
                  "copying a block");
  }
  permute<true><<<blocks, 256, 0, stream>>>(slotOf_, rows_, rowsOf(to, context.ranks()), arrived_, rowBytes_);
  context.check(cudaGetLastError(), "launching a permutation");
  context.done();
}

void Unfused::combine(const fusco_combine_call &call) {
  CudaContext &context = devicePlan_->context();
  const DeviceGroup &group = context.groups().front();
  const cudaStream_t stream = context.leader(group);
  const uint32_t blocks = group.limits.sms * 8;
  context.ready();
  devicePlan_->beginUse();
  permute<false>
      <<<blocks, 256, 0, stream>>>(slotOf_, rows_, rowsOf(call.from, context.ranks()), arrived_, rowBytes_);
  for (const Block &block : blocks_) {
    context.check(cudaMemcpyAsync(packed_ + block.sent, arrived_ + block.arrived, block.bytes,
                                  cudaMemcpyDeviceToDevice, stream),
                  "copying a block");
  }
  CombineParams params{};
  params.plan = devicePlan_->onGroup(0).tables;
  params.plan.place = packedAt_;
  params.rowBytes = rowBytes_;
  params.from[0] = packed_;
  for (uint32_t rank = 0; rank < context.ranks(); rank++) {
    params.to[rank] = static_cast<uint8_t *>(call.to[rank].data);
    if (call.weights != nullptr) params.weights[rank] = static_cast<const float *>(call.weights[rank].data);
  }
  CombineLaunch launch;
  launch.dtype = call.dtype;
  launch.isWeighted = call.weights != nullptr;
  launch.unit = wideUnit;
  launch.tokens = devicePlan_->plan().tokens;
  context.check(launchCombine(params, launch, stream), "launching a combine");
  devicePlan_->endUse();
  context.done();
}

}  // namespace fusco::cuda

using fusco::Failure;

fusco_status fusco_cuda_unfused_create(fusco_cuda_plan *plan, uint64_t row_bytes,
                                       fusco_cuda_unfused **unfused, fusco_error *error) {
  return fusco::guarded(error, [&] {
    if (plan == nullptr || unfused == nullptr)
      throw Failure(FUSCO_E_OPTION, "the plan or the handle is NULL");
    auto pipeline = std::make_unique<fusco::cuda::Unfused>(plan->shared, row_bytes);
    *unfused = new fusco_cuda_unfused{plan->shared->contextHandle(), std::move(pipeline)};
  });
}

void fusco_cuda_unfused_destroy(fusco_cuda_unfused *unfused) { delete unfused; }

fusco_status fusco_cuda_unfused_dispatch(fusco_cuda_unfused *unfused, const fusco_buffer *from,
                                         const fusco_buffer *to, fusco_error *error) {
  return fusco::guarded(error, [&] {
    if (unfused == nullptr) throw Failure(FUSCO_E_OPTION, "the handle is NULL");
    const std::lock_guard<std::mutex> turn(unfused->context->mutex);
    unfused->pipeline->dispatch(from, to);
  });
}

fusco_status fusco_cuda_unfused_combine(fusco_cuda_unfused *unfused, const fusco_combine_call *call,
                                        fusco_error *error) {
  return fusco::guarded(error, [&] {
    if (unfused == nullptr) throw Failure(FUSCO_E_OPTION, "the handle is NULL");
    const std::lock_guard<std::mutex> turn(unfused->context->mutex);
    unfused->pipeline->combine(*call);
  });
}
