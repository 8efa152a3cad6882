#include <algorithm>
#include <cstring>
#include <memory>

#include "context.hpp"
#include "fusco_bench.h"
#include "guard.hpp"
#include "measure.hpp"

namespace {

// A chunk is the task of one thread. The block of a fill fits in the L1 cache together with the write
// buffers.
constexpr uint64_t chunkBytes = 1 << 20;
constexpr uint64_t blockBytes = 1 << 14;

}  // namespace

extern "C" fusco_status fusco_bench_copy(fusco_context *context, fusco_copy_variant variant, uint64_t bytes,
                                         uint32_t runs, uint64_t *best, fusco_error *error) {
  using fusco::Failure;
  return fusco::guarded(error, [&] {
    if (context == nullptr || best == nullptr || bytes < 1 || bytes >> 48 != 0 || runs < 1) {
      throw Failure(FUSCO_E_OPTION, "bytes must be from 1 to 2^48 - 1 and runs from 1");
    }
    const std::lock_guard<std::mutex> turn(context->shared->mutex);
    const bool fills = variant == FUSCO_COPY_FILL;
    const auto from = std::make_unique<uint8_t[]>(fills ? blockBytes : bytes);
    const auto to = std::make_unique<uint8_t[]>(bytes);
    const fusco::Kernels &kernels = context->shared->kernels();
    const auto copy = variant == FUSCO_COPY_MEMCPY ? kernels.copyRow : kernels.copyRowNonTemporal;
    const auto chunks = static_cast<uint32_t>((bytes + chunkBytes - 1) / chunkBytes);
    auto work = [&](uint32_t chunk) {
      const uint64_t end = std::min((chunk + 1) * chunkBytes, bytes);
      const uint64_t step = fills ? blockBytes : chunkBytes;
      for (uint64_t at = chunk * chunkBytes; at < end; at += step) {
        uint8_t *place = to.get() + at;
        copy(from.get() + (fills ? 0 : at), &place, 1, std::min(step, end - at));
      }
      kernels.fence();
    };
    *best = fusco::fastestOf(runs, [&] { context->shared->pool().each(chunks, work); });
  });
}
