// Bytes of a fuzzer taken apart, and memory in which every byte outside of what was asked for is guarded.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "fusco.h"

namespace fuzz {

#define FUZZ_CHECK(condition)                                                          \
  do {                                                                                 \
    if (condition) break;                                                              \
    std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
    std::abort();                                                                      \
  } while (false)

class Input {
 public:
  Input(const uint8_t *data, size_t size) : data_(data), size_(size) {}

  // The next value; zero bytes where the input is over.
  template <class T>
  T take() {
    T value{};
    const size_t bytes = size_ < sizeof value ? size_ : sizeof value;
    // An empty input may be a null pointer.
    if (bytes > 0) std::memcpy(&value, data_, bytes);
    skip(bytes);
    return value;
  }

  // The next `bytes` bytes, or those that are left.
  std::vector<uint8_t> takeBytes(size_t bytes) {
    if (bytes > size_) bytes = size_;
    std::vector<uint8_t> taken(data_, data_ + bytes);
    skip(bytes);
    return taken;
  }

  size_t left() const { return size_; }

 private:
  void skip(size_t bytes) {
    data_ += bytes;
    size_ -= bytes;
  }

  const uint8_t *data_;
  size_t size_;
};

// Heap memory of exactly `bytes` bytes: AddressSanitizer guards both ends.
class Memory {
 public:
  explicit Memory(size_t bytes, uint8_t value = 0) : data_(new uint8_t[bytes]), bytes_(bytes) {
    std::memset(data_.get(), value, bytes);
  }

  // Repeats what is left of an input over the whole memory, and leaves the input as it is.
  void fill(Input input) {
    const std::vector<uint8_t> pattern = input.takeBytes(input.left());
    if (pattern.empty()) return;
    for (size_t i = 0; i < bytes_; i++) data_[i] = pattern[i % pattern.size()];
  }

  uint8_t *data() { return data_.get(); }
  size_t bytes() const { return bytes_; }
  fusco_buffer buffer() const { return {data_.get(), bytes_}; }
  bool holdsOnly(uint8_t value) const { return count(value) == bytes_; }
  size_t count(uint8_t value) const {
    size_t found = 0;
    for (size_t i = 0; i < bytes_; i++) found += data_[i] == value;
    return found;
  }

 private:
  std::unique_ptr<uint8_t[]> data_;
  size_t bytes_;
};

// One context for the whole process; two threads, so that exchanges are split.
inline fusco_context *context() {
  static fusco_context *const made = [] {
    fusco_context_options options = fusco_sized<fusco_context_options>();
    options.threads = 2;
    fusco_context *result = nullptr;
    FUZZ_CHECK(fusco_context_create(&options, &result, nullptr) == FUSCO_OK);
    return result;
  }();
  return made;
}

// A refusal says what is wrong, and is none of the statuses that mean a defect of the library.
inline bool accepted(fusco_status status, const fusco_error &error) {
  if (status == FUSCO_OK) return true;
  FUZZ_CHECK(error.status == status && error.message[0] != '\0');
  FUZZ_CHECK(status != FUSCO_E_INTERNAL && status != FUSCO_E_MEMORY);
  return false;
}

}  // namespace fuzz
