// The msgpack of a plan file: small integers, strings, byte arrays, arrays and maps, each in its shortest
// form.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace fusco::planning {

class MsgpackWriter {
 public:
  MsgpackWriter() { bytes_.reserve(512); }

  void integer(uint32_t value) {
    if (value < 0x80) {
      byte(value);
    } else if (value < 0x100) {
      head(0xcc, value, 1);
    } else if (value < 0x10000) {
      head(0xcd, value, 2);
    } else {
      head(0xce, value, 4);
    }
  }
  // Shorter than 65536 bytes.
  void text(std::string_view value) {
    const auto size = static_cast<uint32_t>(value.size());
    if (size < 0x20) {
      byte(0xa0 | size);
    } else if (size < 0x100) {
      head(0xd9, size, 1);
    } else {
      head(0xda, size, 2);
    }
    append(value.data(), size);
  }
  // Shorter than 256 bytes.
  void binary(const void *data, uint32_t size) {
    head(0xc4, size, 1);
    append(data, size);
  }
  // Fewer than 65536 elements or pairs, which follow.
  void array(uint32_t elements) { collection(0x90, 0xdc, elements); }
  void map(uint32_t pairs) { collection(0x80, 0xde, pairs); }

  const std::vector<uint8_t> &bytes() const { return bytes_; }

 private:
  void byte(uint32_t value) { bytes_.push_back(static_cast<uint8_t>(value)); }
  void head(uint32_t kind, uint32_t value, int size) {
    byte(kind);
    for (int i = size - 1; i >= 0; i--) byte(value >> (8 * i));
  }
  void collection(uint32_t shortKind, uint32_t longKind, uint32_t count) {
    if (count < 16) {
      byte(shortKind | count);
    } else {
      head(longKind, count, 2);
    }
  }
  void append(const void *data, size_t size) {
    const auto *at = static_cast<const uint8_t *>(data);
    bytes_.insert(bytes_.end(), at, at + size);
  }

  std::vector<uint8_t> bytes_;
};

}  // namespace fusco::planning
