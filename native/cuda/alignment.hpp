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

// Addresses of the ranks' buffers; none of an optional array that is null.
template <class T>
void copyPointers(const fusco_buffer *buffers, uint32_t ranks, T **to) {
  if (buffers == nullptr) return;
  for (uint32_t rank = 0; rank < ranks; rank++) to[rank] = static_cast<T *>(buffers[rank].data);
}

inline uint8_t *bytesOf(const fusco_buffer &buffer) { return static_cast<uint8_t *>(buffer.data); }

// Throws E_BUFFER unless `bits` are a multiple of `unit`: kernels load whole units.
inline void checkAligned(const char *name, uint64_t bits, uint32_t unit) {
  if (bits % unit == 0) return;
  throw Failure(FUSCO_E_BUFFER, "%s: an address is not a multiple of %u bytes", name, unit)
      .limited(bits % unit, unit);
}

}  // namespace fusco::cuda
