// The pipeline that fusion replaces, on the GPU: pack by destination, copy blocks between ranks, permute into
// expert order; and back. The bench compares the fused exchange with it.
#pragma once

#include "device_plan.hpp"

namespace fusco::cuda {

class Unfused {
 public:
  // Makes tables and buffers for rows of `rowBytes` (a multiple of 16). All ranks on one device.
  Unfused(std::shared_ptr<DevicePlan> devicePlan, uint64_t rowBytes);
  ~Unfused();
  Unfused(const Unfused &) = delete;
  Unfused &operator=(const Unfused &) = delete;

  // `from` [ranks] of [tokens, rowBytes], `to` [ranks] of [receive rows, rowBytes]; padding is not
  // written.
  void dispatch(const fusco_buffer *from, const fusco_buffer *to);
  void combine(const fusco_combine_call &call);

 private:
  struct Block {
    uint64_t sent;
    uint64_t arrived;
    uint64_t bytes;
  };

  std::shared_ptr<DevicePlan> devicePlan_;
  uint64_t rowBytes_;
  uint64_t rows_ = 0;
  std::vector<Block> blocks_;
  std::vector<void *> owned_;
  uint8_t *packed_ = nullptr;   // [rows], by (source, destination, slot)
  uint8_t *arrived_ = nullptr;  // [rows], by (destination, source, slot)
  Place *sourceOf_ = nullptr;   // of each packed row: rank and token
  Place *slotOf_ = nullptr;     // of each arrived row: rank and slot
  Place *packedAt_ = nullptr;   // [tokens, topk]: rank 0 and packed row
};

}  // namespace fusco::cuda

struct fusco_cuda_unfused {
  std::shared_ptr<fusco::cuda::CudaContext> context;
  std::unique_ptr<fusco::cuda::Unfused> pipeline;
};
