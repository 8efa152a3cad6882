#include "edges.hpp"

#include "one_pass_device.cuh"

namespace fusco::cuda {

namespace {

// A thread for each device. The epoch of the call, which the end edge completes.
__device__ uint32_t epochOf(const OnePassCommon &c) {
  return *static_cast<volatile uint32_t *>(&c.control->epoch) + 1;
}

__global__ void __launch_bounds__(maxRanks) beginEdge(const __grid_constant__ EdgeParams p) {
  const OnePassCommon &c = p.common;
  const uint32_t device = threadIdx.x;
  if (device >= c.devices) return;
  const uint32_t epoch = epochOf(c);
  const bool isOther = device != c.device;
  if (isOther && !hasFailed(c)) tellReady(c, epoch, device, &p.told);
  if (isOther && !awaitPeer(c, epoch, device)) return;
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
  const uint32_t device = threadIdx.x;
  const uint32_t epoch = epochOf(c);
  if (device < c.devices && device != c.device && !hasFailed(c)) {
    storeRelease(&c.inbox[device]->done[c.device], epoch);
    awaitFlag(c, &c.inbox[c.device]->done[device], epoch, device);
  }
  __syncthreads();
  if (device == 0) *static_cast<volatile uint32_t *>(&c.control->epoch) = epoch;
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
