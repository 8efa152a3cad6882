// Bytes in host memory that the ranks of one machine give one another, piece by piece, through their mailbox.
// What they tell one another when a plan is made takes microseconds this way; through devices and NCCL it
// takes about a millisecond. No CUDA, no NCCL.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "fusco_nccl.h"
#include "mailbox.hpp"

namespace fusco::nccl {

class HostSwap {
 public:
  // Where the bytes of a neighbor, the local rank included, are to be written: `bytes` bytes of host memory.
  // It may throw.
  using Take = std::function<void *(uint32_t neighbor, uint64_t bytes)>;

  // `rankAt` [neighbors]: the rank of each, for errors. Both must outlive the object.
  HostSwap(Mailbox &mailbox, const std::vector<uint32_t> &rankAt, uint32_t self)
      : mailbox_(mailbox), rankAt_(rankAt), self_(self) {}

  // Collective among the neighbors. `parts` [neighbors]: the bytes of `sent` that each of them gets, and the
  // local rank itself; parts may overlap. Throws E_PEER_MISMATCH, with the rank, where another rank is in
  // another call.
  void run(const fusco_nccl_call &call, const void *sent, const std::vector<Part> &parts,
           const Mailbox::Wait &wait, const Take &take);

 private:
  Mailbox &mailbox_;
  const std::vector<uint32_t> &rankAt_;
  const uint32_t self_;
  uint64_t pieces_ = 0;  // so far
};

}  // namespace fusco::nccl
