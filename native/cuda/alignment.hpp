// How wide an access addresses and sizes allow. Their bits are put together with `|`.
#pragma once

#include <cstdint>

#include "access_unit.hpp"
#include "failure.hpp"

namespace fusco::cuda {

inline uint64_t bitsOf(const fusco_buffer &buffer) { return reinterpret_cast<uint64_t>(buffer.data); }

inline uint64_t bitsOf(const fusco_buffer *buffers, uint32_t ranks) {
  uint64_t bits = 0;
  for (uint32_t rank = 0; rank < ranks; rank++) bits |= bitsOf(buffers[rank]);
  return bits;
}

inline uint64_t bitsOf(const void *address) { return reinterpret_cast<uint64_t>(address); }

inline uint8_t *bytesOf(const fusco_buffer &buffer) { return static_cast<uint8_t *>(buffer.data); }

// Numbers must lie at multiples of their size: the kernels load whole elements. Throws E_BUFFER.
inline void checkAligned(const char *name, uint64_t bits, uint32_t elementSize) {
  if (bits % elementSize == 0) return;
  throw Failure(FUSCO_E_BUFFER, "%s: an address is not a multiple of %u bytes", name, elementSize)
      .limited(bits % elementSize, elementSize);
}

}  // namespace fusco::cuda
