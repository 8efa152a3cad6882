// Checks of the caller's buffers before an exchange touches any of them.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "plan.hpp"

namespace fusco {

// Collects the ranges that an exchange uses. Throws E_BUFFER.
class BufferCheck {
 public:
  // Uses the context's scratch space, whose lock must be held.
  explicit BufferCheck(const fusco_plan &plan);

  // One buffer per rank of tokens, tokens x topk or receive rows, `rowBytes` each. `name` is at most 27
  // characters.
  void tokens(const char *name, const fusco_buffer *buffers, uint64_t rowBytes, bool isOutput);
  void entries(const char *name, const fusco_buffer *buffers, uint64_t rowBytes, bool isOutput);
  void received(const char *name, const fusco_buffer *buffers, uint64_t rowBytes, bool isOutput);

  // Refuses an output that shares a byte with an input or with another output.
  void refuseOverlap();

 private:
  void add(const char *name, const fusco_buffer *buffers, uint32_t rank, uint64_t needed, bool isOutput);

  const fusco_plan &plan_;
  std::vector<Extent> &extents_;
};

// The buffers of a call on one rank's rows.
class RowBuffers {
 public:
  // Throws E_BUFFER unless the buffer has `needed` bytes that none before it has.
  void add(const char *name, const fusco_buffer &buffer, uint64_t needed);

 private:
  struct Range {
    const char *name;
    uintptr_t begin;
    uintptr_t end;
  };
  std::array<Range, 5> ranges_{};
  size_t count_ = 0;
};

// Throws E_OPTION unless `rowBytes` is in range.
void checkRowBytes(uint64_t rowBytes);

// Elements of a row of numbers. Throws E_DTYPE for opaque or ragged rows, E_OPTION for an unknown dtype.
uint64_t checkElements(fusco_dtype dtype, uint64_t rowBytes);

inline uint8_t *rowOf(const fusco_buffer *buffers, uint32_t rank, uint64_t row, uint64_t rowBytes) {
  return static_cast<uint8_t *>(buffers[rank].data) + row * rowBytes;
}

// The weight of an entry of `rank`, at any address.
inline float weightOf(const fusco_buffer *weights, uint32_t rank, uint64_t entry) {
  float weight;
  std::memcpy(&weight, rowOf(weights, rank, entry, weightBytes), weightBytes);
  return weight;
}

}  // namespace fusco
