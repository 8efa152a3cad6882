// Checks of the caller's buffers before a call touches any of them.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>

#include "plan.hpp"

namespace fusco {

// A further check of every buffer that a call uses, for device memory. `rank` is an index of the plan's
// ranks, and 0 for a call on one rank's rows. Throws E_BUFFER.
using CheckMemory =
    std::function<void(const char *name, uint32_t rank, const fusco_buffer &buffer, uint32_t elementBytes)>;

// A row of elements; opaque rows have elements of one byte.
struct RowShape {
  uint64_t bytes;
  uint32_t elementBytes = 1;
};
constexpr RowShape weightRow = {weightBytes, weightBytes};
constexpr RowShape originRow = {originBytes, sizeof(int32_t)};

// Throws E_OPTION unless `rowBytes` is in range.
RowShape checkRowBytes(uint64_t rowBytes);
// Throws E_OPTION likewise, E_DTYPE unless it is a row of numbers.
RowShape checkNumbers(fusco_dtype dtype, uint64_t rowBytes);

// Collects the ranges that an exchange uses. Throws E_BUFFER.
class BufferCheck {
 public:
  // Uses the context's scratch space, whose lock must be held.
  BufferCheck(const fusco_plan &plan, const CheckMemory &each);

  // One buffer per rank of tokens, tokens x topk or receive rows. `name` is at most 27 characters.
  void tokens(const char *name, const fusco_buffer *buffers, const RowShape &row, bool isOutput);
  void entries(const char *name, const fusco_buffer *buffers, const RowShape &row, bool isOutput);
  void received(const char *name, const fusco_buffer *buffers, const RowShape &row, bool isOutput);

  // Refuses an output that shares a byte with an input or with another output.
  void refuseOverlap();

 private:
  void add(const char *name, const fusco_buffer *buffers, uint32_t rank, uint64_t rows, const RowShape &row,
           bool isOutput);

  const fusco_plan &plan_;
  const CheckMemory &each_;
  std::vector<Extent> &extents_;
};

// The buffers of a call on one rank's rows.
class RowBuffers {
 public:
  explicit RowBuffers(const CheckMemory &each) : each_(each) {}
  // Throws E_BUFFER if the buffer is smaller than `elements` elements, or overlaps one that was added before.
  void add(const char *name, const fusco_buffer &buffer, uint64_t elements, uint32_t elementBytes);

 private:
  struct Range {
    const char *name;
    uintptr_t begin;
    uintptr_t end;
  };
  const CheckMemory &each_;
  std::array<Range, 5> ranges_{};
  size_t count_ = 0;
};

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
