// The pipeline that fusion replaces, on the GPU: pack by destination, copy blocks between ranks, permute into
// expert order; and back. The bench compares the fused exchange with it.

#include "alignment.hpp"
#include "device_plan.hpp"
#include "element_device.cuh"
#include "failure.hpp"
#include "fusco_cuda_bench.h"
#include "guard.hpp"
#include "unfused_tables.hpp"

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

}  // namespace

class Unfused {
 public:
  // Makes tables and buffers for rows of `rowBytes` (a multiple of 16). All ranks on one device.
  Unfused(std::shared_ptr<DevicePlan> devicePlan, uint64_t rowBytes)
      : devicePlan_(std::move(devicePlan)), context_(devicePlan_->context()), rowBytes_(rowBytes) {
    if (rowBytes == 0 || rowBytes % 16 != 0 || context_.groups().size() != 1) {
      throw Failure(FUSCO_E_OPTION, "the unfused pipeline takes rows of whole 16 bytes on one device");
    }
    const UnfusedTables tables(devicePlan_->plan());
    blocks_ = tables.blocks;
    rows_ = tables.slot.size();
    packed_ = allocate<uint8_t>(rows_ * rowBytes);
    arrived_ = allocate<uint8_t>(rows_ * rowBytes);
    source_ = uploaded(tables.source);
    slot_ = uploaded(tables.slot);
    packedAt_ = uploaded(tables.packedAt);
  }
  ~Unfused() {
    cudaDeviceSynchronize();
    for (void *at : owned_) cudaFree(at);
  }
  Unfused(const Unfused &) = delete;
  Unfused &operator=(const Unfused &) = delete;

  CudaContext &context() const { return context_; }

  // One per-token payload; padding is not written.
  void dispatch(const fusco_dispatch_call &call) {
    if (call.payload_count != 1) throw Failure(FUSCO_E_OPTION, "the pipeline takes one payload");
    context_.ready();
    launchPermute<false>(source_, call.payloads[0].from, packed_);
    for (const UnfusedBlock &block : blocks_) {
      copy(arrived_ + block.recvRow * rowBytes_, packed_ + block.sendRow * rowBytes_, block.rows);
    }
    launchPermute<true>(slot_, call.payloads[0].to, arrived_);
    context_.check(cudaGetLastError(), "launching a permutation");
    context_.done();
  }

  void combine(const fusco_combine_call &call) {
    context_.ready();
    devicePlan_->beginUse();
    launchPermute<false>(slot_, call.from, arrived_);
    for (const UnfusedBlock &block : blocks_) {
      copy(packed_ + block.sendRow * rowBytes_, arrived_ + block.recvRow * rowBytes_, block.rows);
    }
    CombineParams params{};
    params.plan = devicePlan_->onGroup(0).tables;
    params.plan.place = packedAt_;
    params.rowBytes = rowBytes_;
    params.from[0] = packed_;
    copyPointers(call.to, context_.ranks(), params.to);
    copyPointers(call.weights, context_.ranks(), params.weights);
    CombineLaunch launch;
    launch.dtype = call.dtype;
    launch.isWeighted = call.weights != nullptr;
    launch.unit = wideUnit;
    launch.tokens = devicePlan_->plan().tokens;
    context_.check(launchCombine(params, launch, stream()), "launching a combine");
    devicePlan_->endUse();
    context_.done();
  }

 private:
  template <class T>
  T *allocate(uint64_t count) {
    owned_.push_back(context_.allocRaw(0, count * sizeof(T)));
    return static_cast<T *>(owned_.back());
  }

  Place *uploaded(const std::vector<Place> &values) {
    auto *at = allocate<Place>(values.size());
    context_.check(cudaMemcpy(at, values.data(), values.size() * sizeof(Place), cudaMemcpyHostToDevice),
                   "uploading");
    // A copy from pageable memory may still be under way, and kernels run on streams that do not wait for it.
    context_.check(cudaStreamSynchronize(nullptr), "uploading");
    return at;
  }

  cudaStream_t stream() const { return context_.leader(context_.groups().front()); }

  template <bool toRanks>
  void launchPermute(const Place *places, const fusco_buffer *buffers, uint8_t *buffer) {
    Rows rows{};
    copyPointers(buffers, context_.ranks(), rows.of);
    const uint32_t blocks = context_.groups().front().limits.sms * 8;
    permute<toRanks><<<blocks, 256, 0, stream()>>>(places, rows_, rows, buffer, rowBytes_);
  }

  void copy(uint8_t *to, const uint8_t *from, uint64_t rows) {
    context_.check(cudaMemcpyAsync(to, from, rows * rowBytes_, cudaMemcpyDeviceToDevice, stream()),
                   "copying a block");
  }

  std::shared_ptr<DevicePlan> devicePlan_;
  CudaContext &context_;
  uint64_t rowBytes_;
  uint64_t rows_ = 0;
  std::vector<UnfusedBlock> blocks_;
  std::vector<void *> owned_;
  // Device memory; see UnfusedTables.
  uint8_t *packed_ = nullptr;   // [rows, rowBytes]
  uint8_t *arrived_ = nullptr;  // [rows, rowBytes]
  Place *source_ = nullptr;
  Place *slot_ = nullptr;
  Place *packedAt_ = nullptr;
};

}  // namespace fusco::cuda

struct fusco_cuda_unfused {
  fusco::cuda::Unfused pipeline;
};

using fusco::Failure;

namespace {

template <class F>
fusco_status inTurn(fusco_cuda_unfused *unfused, fusco_error *error, F work) {
  return fusco::guarded(error, [&] {
    if (unfused == nullptr) throw Failure(FUSCO_E_OPTION, "the handle is NULL");
    const std::lock_guard<std::mutex> turn(unfused->pipeline.context().mutex);
    work();
  });
}

}  // namespace

fusco_status fusco_cuda_unfused_create(fusco_cuda_plan *plan, uint64_t row_bytes,
                                       fusco_cuda_unfused **unfused, fusco_error *error) {
  return fusco::guarded(error, [&] {
    if (plan == nullptr || unfused == nullptr)
      throw Failure(FUSCO_E_OPTION, "the plan or the handle is NULL");
    *unfused = new fusco_cuda_unfused{{plan->shared, row_bytes}};
  });
}

void fusco_cuda_unfused_destroy(fusco_cuda_unfused *unfused) { delete unfused; }

fusco_status fusco_cuda_unfused_dispatch(fusco_cuda_unfused *unfused, const fusco_dispatch_call *call,
                                         fusco_error *error) {
  return inTurn(unfused, error, [&] { unfused->pipeline.dispatch(*call); });
}

fusco_status fusco_cuda_unfused_combine(fusco_cuda_unfused *unfused, const fusco_combine_call *call,
                                        fusco_error *error) {
  return inTurn(unfused, error, [&] { unfused->pipeline.combine(*call); });
}
