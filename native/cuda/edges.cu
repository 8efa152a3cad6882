#include "edges.hpp"

#include "edges_device.cuh"

namespace fusco::cuda {

namespace {

__global__ void __launch_bounds__(maxRanks) beginEdge(const __grid_constant__ EdgeParams p) {
  const OnePassCommon &c = p.common;
  const uint32_t device = threadIdx.x;
  if (device >= c.devices) return;
  const uint32_t epoch = epochOf(c);
  const bool isOther = device != c.device;
  if (isOther && !beginEdgeAt(c, epoch, device, &p.told)) return;
  const ReadyMessage &message = c.inbox[c.device]->message[epoch % 2][device];
  for (uint32_t i = 0; i < maxPeerBuffers; i++) {
    p.addresses[i * maxRanks + device] = isOther ? message.address[i] : p.here[i];
  }
}

__global__ void __launch_bounds__(maxRanks) readyEdge(const __grid_constant__ OnePassCommon c) {
  const uint32_t device = threadIdx.x;
  if (device >= c.devices || device == c.device || hasFailed(c)) return;
  const uint32_t epoch = epochOf(c);
  tellReady(c, epoch, device, nullptr);
  awaitPeer(c, epoch, device);
}

__global__ void __launch_bounds__(maxRanks) endEdge(const __grid_constant__ OnePassCommon c) {
  endEdgeAt(c, epochOf(c), threadIdx.x);
}

}  // namespace

cudaError_t launchBeginEdge(const EdgeParams &params, cudaStream_t stream) {
  beginEdge<<<1, maxRanks, 0, stream>>>(params);
  return cudaGetLastError();
}

cudaError_t loadReadyEdge() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, readyEdge);
}

cudaError_t launchReadyEdge(const OnePassCommon &common, cudaStream_t stream) {
  readyEdge<<<1, maxRanks, 0, stream>>>(common);
  return cudaGetLastError();
}

cudaError_t launchEndEdge(const OnePassCommon &common, cudaStream_t stream) {
  endEdge<<<1, maxRanks, 0, stream>>>(common);
  return cudaGetLastError();
}

}  // namespace fusco::cuda
