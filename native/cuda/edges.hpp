// The edges of an exchange between processes whose kernels do not signal by themselves: nothing is read from
// or written to another process before its stream has reached the begin edge, and no stream passes the end
// edge before all others have.
#pragma once

#include "one_pass.hpp"

namespace fusco::cuda {

// `plan` of `common` is not used.
struct EdgeParams {
  OnePassCommon common;
  ToldAddresses told;
  uint64_t here[maxPeerBuffers];  // this device's buffers as it addresses them itself
  uint64_t *addresses;            // PeerRows::addresses: the begin edge writes them
};

// Enqueue on a stream of the current device.
cudaError_t launchBeginEdge(const EdgeParams &params, cudaStream_t stream);
cudaError_t launchEndEdge(const OnePassCommon &common, cudaStream_t stream);

}  // namespace fusco::cuda
