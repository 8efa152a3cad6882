// Edges of exchanges that are kernels of their own. Between processes, for kernels that do not signal by
// themselves: nothing is read from or written to another process before its stream has reached the begin
// edge, and no stream passes the end edge before all others have.
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

// For one process with several devices, before kernels that signal by themselves: waits until all devices
// have come to the call. One block waits, so that the SMs stay free for what a late device may wait for.
cudaError_t launchReadyEdge(const OnePassCommon &common, cudaStream_t stream);
// Loads its kernel on the current device: a device that waits already could hold up the loading.
cudaError_t loadReadyEdge();

// Enqueue on a stream of the current device.
cudaError_t launchBeginEdge(const EdgeParams &params, cudaStream_t stream);
cudaError_t launchEndEdge(const OnePassCommon &common, cudaStream_t stream);

}  // namespace fusco::cuda
