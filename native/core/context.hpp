// What a context owns: threads, the kernels of this processor, and scratch space that survives exchanges.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "fusco.h"
#include "kernels.hpp"
#include "pool.hpp"

namespace fusco {

// A range of the caller's memory that an exchange uses.
struct Extent {
  uintptr_t begin;
  uintptr_t end;
  bool isOutput;
  uint32_t rank;
  char name[28];
};

class Context {
 public:
  explicit Context(const fusco_context_options &options);

  Pool &pool() { return pool_; }
  const Kernels &kernels() const { return kernels_; }
  // Whether an exchange that writes `bytesWritten` bytes should bypass the caches.
  bool storesNonTemporal(uint64_t bytesWritten) const { return bytesWritten >= nonTemporalBytes_; }

  // Held for the length of an exchange: it owns the pool and the scratch space meanwhile.
  std::mutex mutex;
  // Cleared, never shrunk: the steady state allocates nothing.
  std::vector<Extent> extents;

 private:
  const Kernels &kernels_;
  uint64_t nonTemporalBytes_;
  Pool pool_;
};

}  // namespace fusco

// Shared with the plans, which may outlive the handle.
struct fusco_context {
  std::shared_ptr<fusco::Context> shared;
};
