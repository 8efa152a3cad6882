// The edges of a plan between processes, for one block.
#pragma once

#include "edges_device.cuh"

namespace fusco::cuda {

class ProcessEdges {
 public:
  __device__ explicit ProcessEdges(const OnePassCommon &common) : common_(common) {}

  // What the block, and kernels before it, have stored before is seen by the other processes behind their
  // edge. Return false to all threads after a failure: then facts are missing.
  __device__ bool begin() const {
    __syncthreads();
    beginEdgeAt(common_, epochOf(common_), threadIdx.x, nullptr);
    return !hasFailedHere();
  }
  __device__ bool end() const {
    __syncthreads();
    endEdgeAt(common_, epochOf(common_), threadIdx.x);
    return !hasFailedHere();
  }

  // By all threads.
  __device__ bool hasFailedHere() const { return __syncthreads_or(hasFailed(common_) ? 1 : 0) != 0; }

 private:
  const OnePassCommon &common_;
};

}  // namespace fusco::cuda
