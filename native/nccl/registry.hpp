// Device memory that ranks of one machine share. A rank announces an allocation once, at its first use; a
// thread of each other rank maps it at any time, also while a kernel of the device waits for this rank. So no
// exchange has to ask whether buffers are known.
//
// Unmapping waits for the device, so it is left to closeRetired().
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda_context.hpp"
#include "mailbox.hpp"
#include "rank_tables.hpp"

namespace fusco::nccl {

class Registry {
 public:
  // `onFailure` is called by the thread when another rank of the machine has failed; `beforeMeeting` by
  // share() before it waits for the others.
  Registry(Mailbox &mailbox, const Neighbors &neighbors, cuda::CudaContext &context,
           std::function<void()> onFailure, std::function<void()> beforeMeeting);
  // Unmaps everything, which waits for the device.
  ~Registry();
  Registry(const Registry &) = delete;
  Registry &operator=(const Registry &) = delete;

  // Where the buffer is for others: they have mapped its allocation when the call returns. Waits for them
  // with `wait` if the allocation is new. No memory: bytes 0. Throws E_BUFFER for memory that cannot be
  // shared, E_BACKEND if a rank cannot map it, E_LIMIT.
  PostedBuffer share(const fusco_buffer &buffer, const Mailbox::Wait &wait);
  // Ends the sharing of the allocation that the buffer is part of, if it is shared.
  void unshare(const fusco_buffer &buffer);

  // The address of this rank's buffer in neighbor `neighbor`.
  uint64_t addressAt(uint32_t neighbor, const PostedBuffer &buffer) const;
  // A neighbor's buffer in this process, or null if it is not mapped.
  uint8_t *mapped(uint32_t neighbor, const PostedBuffer &buffer) const;

  // Unmaps what owners have freed. Waits for the device.
  void closeRetired();

 private:
  // An allocation of this rank.
  struct Own {
    uint64_t size;
    uint64_t id;  // another allocation at the same address has another one
    uint32_t segment;
  };
  // A neighbor's segment here.
  struct Mapping {
    std::atomic<uint8_t *> base{nullptr};
    uint32_t generation = 0;
  };

  const Own *find(uint64_t address);
  uint32_t add(const fusco_buffer &buffer);
  void awaitAnswers(uint32_t segment, const Mailbox::Wait &wait);
  void serve();
  void map(uint32_t neighbor, uint32_t index);

  Mailbox &mailbox_;
  const Neighbors &neighbors_;
  cuda::CudaContext &context_;
  std::function<void()> onFailure_;
  std::function<void()> beforeMeeting_;
  std::map<uint64_t, Own> own_;                 // by base address
  std::vector<uint32_t> free_;                  // segments that are not used
  uint32_t segments_ = 0;                       // segments that were ever used
  std::vector<std::vector<Mapping>> mappings_;  // [neighbors][maxSegments]
  std::mutex retiredMutex_;
  std::vector<uint8_t *> retired_;
  std::atomic<bool> isStopping_{false};
  std::thread thread_;
};

}  // namespace fusco::nccl
