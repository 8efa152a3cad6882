// Devices, memory, and the ranks' streams with the dependencies between them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "context.hpp"
#include "exchange_launch.hpp"
#include "fusco_cuda.h"

namespace fusco::cuda {

enum class Timing { off, on };

// A cudaEvent_t of one device.
class Event {
 public:
  void create(uint32_t device, Timing timing);
  cudaEvent_t get() const { return event_.get(); }

 private:
  struct Destroy {
    uint32_t device;
    void operator()(cudaEvent_t event) const;
  };
  std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroy> event_{nullptr, {}};
};

// The ranks of one device. Their kernels run on the stream of the first of them, the leader.
struct DeviceGroup {
  uint32_t device;
  DeviceLimits limits;
  uint32_t allSms;
  std::vector<uint32_t> ranks;
  Event done;
};

class Graph;
class OnePassSignals;

class CudaContext {
 public:
  CudaContext(uint32_t ranks, const uint32_t *devices);
  ~CudaContext();
  CudaContext(const CudaContext &) = delete;
  CudaContext &operator=(const CudaContext &) = delete;

  uint32_t ranks() const { return static_cast<uint32_t>(device_.size()); }
  uint32_t deviceOf(uint32_t rank) const { return device_[rank]; }
  const std::vector<uint32_t> &devices() const { return device_; }  // [ranks]
  const std::vector<DeviceGroup> &groups() const { return groups_; }
  cudaStream_t stream(uint32_t rank) const { return streams_[rank]; }
  cudaStream_t leader(const DeviceGroup &group) const { return streams_[group.ranks.front()]; }
  void setStream(uint32_t rank, cudaStream_t stream);
  // SMs of each device that exchanges may occupy; 0: all.
  void limitSms(uint32_t count);
  bool hasSmLimit() const { return hasSmLimit_; }

  void *alloc(uint32_t rank, uint64_t bytes);
  // The same, for memory that the caller frees with cudaFree.
  void *allocRaw(uint32_t rank, uint64_t bytes);
  // Waits for the device.
  void free(void *address);
  // Memory of alloc() is not given back to the driver when it is freed, but to a later alloc().
  void keep(void *address);
  void synchronize();

  // Makes the leaders wait for all ranks' streams, and later all ranks' streams for the leaders; without
  // `acrossDevices` those of the same device only.
  void ready(bool acrossDevices = true);
  void done(bool acrossDevices = true);
  // Between two launches of one exchange: every leader waits for every other.
  void orderLeaders();

  // Throws E_OPTION for a rank outside the group.
  void checkRank(uint32_t rank) const;
  // Throws E_BUFFER unless the device of `rank` reaches `address`.
  void checkReach(const char *name, uint32_t rank, const void *address);
  // Throws E_BACKEND with the first error that made a device unusable.
  void checkAlive() const;
  // Throws the error of a CUDA call that did `what`, and remembers it if it makes the device unusable.
  void check(cudaError_t error, const char *what);

  // Called by synchronize() and by every call: throws what kernels have reported. Null: nothing to ask.
  std::function<void()> checkKernels;

  // Of the one-pass exchanges between several devices; made when the first of them needs it.
  OnePassSignals &signals();

  // Held for the length of a call.
  std::mutex mutex;
  // For the checks that are shared with the host backend.
  std::shared_ptr<fusco::Context> host;
  // The graph that is being captured, or null.
  Graph *capturing = nullptr;

 private:
  void checkStream(uint32_t rank, cudaStream_t stream);
  // The group of a device, which is opened at first use.
  DeviceGroup &groupOf(uint32_t device);
  void openPeers();
  void record(Event &event, cudaStream_t stream);
  void wait(cudaStream_t stream, const Event &event);

  bool hasSmLimit_ = false;
  std::vector<uint32_t> device_;  // [ranks]
  std::vector<DeviceGroup> groups_;
  std::vector<cudaStream_t> own_;      // [ranks]
  std::vector<cudaStream_t> streams_;  // [ranks]
  std::vector<Event> ready_;           // [ranks]
  // A kept allocation that is free.
  struct Idle {
    uint32_t device;
    void *address;
  };

  std::map<void *, uint64_t> owned_;
  std::set<void *> kept_;
  std::multimap<uint64_t, Idle> idle_;  // by bytes
  std::set<std::pair<const void *, uint32_t>> reached_;
  std::string broken_;
  std::unique_ptr<OnePassSignals> signals_;
};

// Makes `device` the current one of this thread, and restores the previous one at the end of the scope.
class OnDevice {
 public:
  explicit OnDevice(uint32_t device) {
    cudaGetDevice(&before_);
    cudaSetDevice(static_cast<int>(device));
  }
  ~OnDevice() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};

// While it lives, no other context of this process enqueues a call on several devices: where contexts share
// streams, calls whose devices wait for one another must come in the same order on all of these devices.
class DevicesInOrder {
 public:
  explicit DevicesInOrder(const CudaContext &context);

 private:
  std::unique_lock<std::mutex> turn_;
};

// Allows this thread to allocate while it captures: what it allocates is not part of the capture.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture &) = delete;
  RelaxedCapture &operator=(const RelaxedCapture &) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Throws E_BACKEND if there is no device.
uint32_t deviceCount();

}  // namespace fusco::cuda

struct fusco_cuda_context {
  std::shared_ptr<fusco::cuda::CudaContext> shared;
};

struct fusco_cuda_event {
  std::shared_ptr<fusco::cuda::CudaContext> context;
  uint32_t rank;
  fusco::cuda::Event event;
};
