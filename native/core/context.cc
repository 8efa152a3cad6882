#include "context.hpp"

#include <unistd.h>

#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include "failure.hpp"

namespace fusco {

namespace {

constexpr uint32_t maxThreads = 1024;

uint32_t usableProcessors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<uint32_t>(CPU_COUNT(&set));
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count == 0 ? 1 : count;
}

uint32_t threadsOf(const fusco_context_options &options) {
  if (options.threads > maxThreads) {
    throw Failure(FUSCO_E_OPTION, "threads is %u; it must be from 0 to %u", options.threads, maxThreads)
        .limited(options.threads, maxThreads);
  }
  if (options.kernels != FUSCO_KERNELS_AUTO && options.kernels != FUSCO_KERNELS_PORTABLE) {
    throw Failure(FUSCO_E_OPTION, "kernels is %d; it must be 0 or 1", options.kernels);
  }
  if (options.threads > 0) return options.threads;
  const uint32_t processors = usableProcessors();
  return processors > maxThreads ? maxThreads : processors;
}

// What does not fit the last-level cache is better written past it: it would evict the rows still to be read.
uint64_t lastLevelCacheBytes() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
  const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (bytes > 0) return static_cast<uint64_t>(bytes);
#endif
  return 32u << 20;
}

}  // namespace

Context::Context(const fusco_context_options &options)
    : kernels_(chooseKernels(options.kernels)),
      nonTemporalBytes_(options.nontemporal_bytes > 0 ? options.nontemporal_bytes : lastLevelCacheBytes()),
      pool_(threadsOf(options)) {}

}  // namespace fusco
