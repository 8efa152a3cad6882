// The ranks of a run: threads or processes of this program, one for each GPU,
// which meet in shared memory.
#pragma once

#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

#include "one_pass.hpp"

namespace fusco::variants {

constexpr uint32_t mostRanks = 8;

inline void must(cudaError_t error, const char *what) {
  if (error == cudaSuccess)
    return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::_Exit(1);
}

// Buffers that other ranks write.
enum SharedBuffer : uint32_t {
  inboxBuffer,
  flagsBuffer,
  pushedBuffer,
  landingBuffer,
  rowsBuffer,
  scalesBuffer,
  weightGradientBuffer,
  sharedBuffers
};

// Memory that all ranks share.
struct Meeting {
  uint32_t ranks;
  bool isProcesses;
  std::atomic<uint32_t> arrived{0};
  std::atomic<uint32_t> turn{0};
  volatile uint32_t released = 0; // what hold() waits for
  volatile bool isOver = false;   // no time is left
  void *address[mostRanks][sharedBuffers];
  cudaIpcMemHandle_t handle[mostRanks][sharedBuffers];
  // [of][rank]: where rank `rank` addresses a buffer of rank `of`.
  void *mapped[mostRanks][mostRanks][sharedBuffers];
  double ms[mostRanks];
  uint64_t hash[mostRanks];

  // Waits until all ranks are here.
  void barrier() {
    const uint32_t now = turn.load();
    if (arrived.fetch_add(1) + 1 == ranks) {
      arrived = 0;
      turn.fetch_add(1);
      return;
    }
    while (turn.load() == now)
      std::this_thread::yield();
  }
};

// Publishes the buffers of a rank, and returns those of all ranks as this rank
// addresses them.
inline void shareBuffers(Meeting &meeting, uint32_t self,
                         void *const own[sharedBuffers]) {
  for (uint32_t b = 0; b < sharedBuffers; b++) {
    meeting.address[self][b] = own[b];
    if (meeting.isProcesses)
      must(cudaIpcGetMemHandle(&meeting.handle[self][b], own[b]),
           "sharing memory");
  }
  meeting.barrier();
  for (uint32_t rank = 0; rank < meeting.ranks; rank++) {
    for (uint32_t b = 0; b < sharedBuffers; b++) {
      void *&at = meeting.mapped[rank][self][b];
      at = meeting.address[rank][b];
      if (!meeting.isProcesses || rank == self)
        continue;
      must(cudaIpcOpenMemHandle(&at, meeting.handle[rank][b],
                                cudaIpcMemLazyEnablePeerAccess),
           "mapping memory");
    }
  }
  meeting.barrier();
}

// After the last use of the buffers by any rank.
inline void unshareBuffers(Meeting &meeting, uint32_t self) {
  meeting.barrier();
  for (uint32_t rank = 0; meeting.isProcesses && rank < meeting.ranks; rank++) {
    for (uint32_t b = 0; rank != self && b < sharedBuffers; b++)
      cudaIpcCloseMemHandle(meeting.mapped[rank][self][b]);
  }
  meeting.barrier();
}

// Runs work(meeting, rank) on every rank. Returns whether all ended well.
// Nothing of CUDA may have been called by this process before, if the ranks are
// processes.
template <class F> bool runRanks(uint32_t ranks, bool isProcesses, F work) {
  void *memory = mmap(nullptr, sizeof(Meeting), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return false;
  Meeting &meeting = *new (memory) Meeting{};
  meeting.ranks = ranks;
  meeting.isProcesses = isProcesses;
  bool isGood = true;
  if (isProcesses) {
    std::vector<pid_t> children;
    for (uint32_t rank = 0; rank < ranks; rank++) {
      const pid_t child = fork();
      if (child == 0) {
        work(meeting, rank);
        std::fflush(stdout);
        std::_Exit(0);
      }
      children.push_back(child);
    }
    // The others wait in vain for a rank that failed.
    for (size_t ended = 0; ended < children.size(); ended++) {
      int status = 0;
      wait(&status);
      if (status == 0)
        continue;
      isGood = false;
      for (const pid_t child : children)
        kill(child, SIGKILL);
    }
  } else {
    std::vector<std::thread> threads;
    for (uint32_t rank = 0; rank < ranks; rank++)
      threads.emplace_back([&, rank] { work(meeting, rank); });
    for (std::thread &thread : threads)
      thread.join();
  }
  munmap(memory, sizeof(Meeting));
  return isGood;
}

} // namespace fusco::variants
