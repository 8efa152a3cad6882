#include "buffers.hpp"

#include <algorithm>

#include "failure.hpp"
#include "plan_layout.h"

namespace fusco {

BufferCheck::BufferCheck(const fusco_plan &plan, const CheckMemory &each)
    : plan_(plan), each_(each), extents_(plan.context->extents) {
  extents_.clear();
}

void BufferCheck::tokens(const char *name, const fusco_buffer *buffers, const RowShape &row, bool isOutput) {
  for (uint32_t rank = 0; rank < plan_.ranks; rank++) {
    add(name, buffers, rank, plan_.rank[rank].tokens, row, isOutput);
  }
}

void BufferCheck::entries(const char *name, const fusco_buffer *buffers, const RowShape &row, bool isOutput) {
  tokens(name, buffers, {row.bytes * plan_.topk, row.elementBytes}, isOutput);
}

void BufferCheck::received(const char *name, const fusco_buffer *buffers, const RowShape &row,
                           bool isOutput) {
  for (uint32_t rank = 0; rank < plan_.ranks; rank++) {
    add(name, buffers, rank, plan_.rank[rank].recvRows, row, isOutput);
  }
}

void BufferCheck::add(const char *name, const fusco_buffer *buffers, uint32_t rank, uint64_t rows,
                      const RowShape &row, bool isOutput) {
  if (buffers == nullptr) throw Failure(FUSCO_E_BUFFER, "%s: no buffers were given", name);
  const uint64_t needed = rows * row.bytes;
  if (needed == 0) return;
  const fusco_buffer &buffer = buffers[rank];
  const uint64_t given = buffer.data == nullptr ? 0 : buffer.bytes;
  const uint32_t named = plan_.firstRank + rank;
  if (given < needed) {
    throw Failure(FUSCO_E_BUFFER, "%s of rank %u has %llu bytes, %llu are needed", name, named, given, needed)
        .atRank(named)
        .limited(given, needed);
  }
  const auto begin = reinterpret_cast<uintptr_t>(buffer.data);
  if (begin + needed < begin) {
    throw Failure(FUSCO_E_BUFFER, "%s of rank %u leaves the address space", name, named).atRank(named);
  }
  if (each_) each_(name, rank, buffer, row.elementBytes);
  Extent extent{begin, begin + needed, isOutput, named, {}};
  std::snprintf(extent.name, sizeof extent.name, "%s", name);
  extents_.push_back(extent);
}

void BufferCheck::refuseOverlap() {
  std::sort(extents_.begin(), extents_.end(),
            [](const Extent &a, const Extent &b) { return a.begin < b.begin; });
  const Extent *furthest = nullptr;
  const Extent *furthestOutput = nullptr;
  for (const Extent &extent : extents_) {
    const Extent *other = extent.isOutput ? furthest : furthestOutput;
    if (other != nullptr && other->end > extent.begin) {
      throw Failure(FUSCO_E_BUFFER, "%s of rank %u overlaps %s of rank %u", extent.name, extent.rank,
                    other->name, other->rank)
          .atRank(extent.rank);
    }
    if (furthest == nullptr || extent.end > furthest->end) furthest = &extent;
    if (extent.isOutput && (furthestOutput == nullptr || extent.end > furthestOutput->end)) {
      furthestOutput = &extent;
    }
  }
}

void RowBuffers::add(const char *name, const fusco_buffer &buffer, uint64_t elements, uint32_t elementBytes) {
  const uint64_t needed = elements * elementBytes;
  const uint64_t given = buffer.data == nullptr ? 0 : buffer.bytes;
  if (given < needed) {
    throw Failure(FUSCO_E_BUFFER, "%s has %llu bytes, %llu are needed", name, given, needed)
        .limited(given, needed);
  }
  if (needed == 0) return;
  const auto begin = reinterpret_cast<uintptr_t>(buffer.data);
  const Range range{name, begin, begin + needed};
  if (range.end < begin) throw Failure(FUSCO_E_BUFFER, "%s leaves the address space", name);
  for (size_t i = 0; i < count_; i++) {
    const Range &other = ranges_[i];
    if (other.begin < range.end && range.begin < other.end)
      throw Failure(FUSCO_E_BUFFER, "%s overlaps %s", name, other.name);
  }
  if (each_) each_(name, 0, buffer, elementBytes);
  ranges_[count_++] = range;
}

RowShape checkRowBytes(uint64_t rowBytes) {
  if (rowBytes >= 1 && rowBytes <= FUSCO_MAX_ROW_BYTES) return {rowBytes};
  throw Failure(FUSCO_E_OPTION, "rows of %llu bytes; they must have 1 to %d", rowBytes, FUSCO_MAX_ROW_BYTES)
      .limited(rowBytes, FUSCO_MAX_ROW_BYTES);
}

RowShape checkNumbers(fusco_dtype dtype, uint64_t rowBytes) {
  checkRowBytes(rowBytes);
  const uint32_t size = elementBytes(dtype);
  if (size == 0) throw Failure(FUSCO_E_DTYPE, "dtype %d cannot be computed with", dtype);
  if (rowBytes % size != 0) {
    throw Failure(FUSCO_E_DTYPE, "rows of %llu bytes are not whole elements of %u", rowBytes, size)
        .limited(rowBytes, size);
  }
  return {rowBytes, size};
}

}  // namespace fusco
