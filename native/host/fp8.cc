#include "fp8.hpp"

#include <algorithm>
#include <array>

#include "e4m3.hpp"
#include "failure.hpp"
#include "plan_layout.h"

namespace fusco {

namespace {

// Times the bytes of the longest row this stays inside 64 bits: no product wraps to a size that a small
// buffer has.
constexpr uint64_t maxRows = uint64_t{1} << 38;
static_assert(maxRows <= UINT64_MAX / FUSCO_MAX_ROW_BYTES);
// Elements of a task: about a hundred microseconds.
constexpr uint64_t taskElements = uint64_t{1} << 15;

std::array<float, 256> decodeTable() {
  std::array<float, 256> table{};
  for (uint32_t code = 0; code < 256; code++) table[code] = decodeE4m3(code);
  return table;
}

template <class E>
void quantizeBlock(const uint8_t *from, uint8_t *codes, uint8_t *scale, uint64_t count) {
  float values[fp8Block];
  float size = fp8MinSize;
  bool hasNan = false;
  for (uint64_t i = 0; i < count; i++) values[i] = E::load(from + i * E::bytes);
  for (uint64_t i = 0; i < count; i++) {
    const float absolute = fromBits(toBits(values[i]) & 0x7fffffffu);
    hasNan |= values[i] != values[i];
    size = absolute > size ? absolute : size;
  }
  if (hasNan) size = fromBits(0x7fc00000u);
  const float factor = e4m3Max / size;
  F32::store(scale, size / e4m3Max);
  for (uint64_t i = 0; i < count; i++) codes[i] = encodeE4m3(values[i] * factor);
}

// Calls block(values, codes, scale, count) for every block of every row, several rows a task.
template <class E, class F>
void eachBlock(Context &context, const fusco_fp8_call &call, const F &block) {
  const uint64_t hidden = call.hidden;
  const uint64_t step =
      std::max(std::max<uint64_t>(1, taskElements / hidden), call.rows / (uint64_t{1} << 20));
  auto work = [&](uint32_t task) {
    const uint64_t end = std::min(call.rows, (task + uint64_t{1}) * step);
    for (uint64_t r = task * step; r < end; r++) {
      uint8_t *values = static_cast<uint8_t *>(call.values.data) + r * hidden * E::bytes;
      uint8_t *codes = static_cast<uint8_t *>(call.codes.data) + r * hidden;
      uint8_t *scale = static_cast<uint8_t *>(call.scales.data) + r * fp8Blocks(hidden) * F32::bytes;
      for (uint64_t begin = 0; begin < hidden; begin += fp8Block, scale += F32::bytes) {
        block(values + begin * E::bytes, codes + begin, scale, std::min(fp8Block, hidden - begin));
      }
    }
  };
  context.pool().each(static_cast<uint32_t>((call.rows + step - 1) / step), work);
}

template <class E>
void dequantizeBlock(const std::array<float, 256> &table, uint8_t *to, const uint8_t *codes,
                     const uint8_t *scale, uint64_t count) {
  const float factor = F32::load(scale);
  for (uint64_t i = 0; i < count; i++) E::store(to + i * E::bytes, table[codes[i]] * factor);
}

// Calls work(E{}) with the element type of a dtype that was checked.
template <class F>
void withElement(fusco_dtype dtype, const F &work) {
  if (dtype == FUSCO_DTYPE_F32) return work(F32{});
  if (dtype == FUSCO_DTYPE_F16) return work(F16{});
  work(Bf16{});
}

}  // namespace

void checkFp8(const fusco_fp8_call &call, const CheckMemory &each) {
  if (call.rows > maxRows) {
    throw Failure(FUSCO_E_OPTION, "rows is beyond its limit").limited(call.rows, maxRows);
  }
  const uint32_t size = elementBytes(call.dtype);
  if (size == 0) throw Failure(FUSCO_E_DTYPE, "dtype %d is not f32, f16 or bf16", call.dtype);
  if (call.hidden > FUSCO_MAX_ROW_BYTES) throw Failure(FUSCO_E_OPTION, "hidden is beyond its limit");
  checkRowBytes(call.hidden * size);
  RowBuffers buffers(each);
  buffers.add("values", call.values, call.rows * call.hidden, size);
  buffers.add("codes", call.codes, call.rows * call.hidden, 1);
  buffers.add("scales", call.scales, call.rows * fp8Blocks(call.hidden), F32::bytes);
}

void quantize(Context &context, const fusco_fp8_call &call) {
  checkFp8(call);
  withElement(call.dtype, [&](auto element) {
    using E = decltype(element);
    eachBlock<E>(context, call, [](const uint8_t *from, uint8_t *codes, uint8_t *scale, uint64_t count) {
      quantizeBlock<E>(from, codes, scale, count);
    });
  });
}

void dequantize(Context &context, const fusco_fp8_call &call) {
  checkFp8(call);
  withElement(call.dtype, [&](auto element) {
    using E = decltype(element);
    static const std::array<float, 256> table = decodeTable();
    eachBlock<E>(context, call, [](uint8_t *to, const uint8_t *codes, const uint8_t *scale, uint64_t count) {
      dequantizeBlock<E>(table, to, codes, scale, count);
    });
  });
}

}  // namespace fusco
