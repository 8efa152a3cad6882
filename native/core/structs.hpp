// Arguments of the C interface: pointers that must be there, and structs whose size may differ between the
// caller's version and this one.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "failure.hpp"

namespace fusco {

// What an argument points to. Throws E_OPTION if it is NULL.
template <class T>
T &need(T *pointer, const char *name) {
  if (pointer == nullptr) throw Failure(FUSCO_E_OPTION, "%s is NULL", name);
  return *pointer;
}

// A larger size is taken for a field that was never set.
constexpr uint32_t maxStructBytes = 4096;

// The size that the caller states. Throws E_OPTION unless it is plausible.
inline uint32_t statedSize(const void *given, const char *name) {
  uint32_t size;
  std::memcpy(&size, given, sizeof size);
  if (size < sizeof size || size > maxStructBytes) {
    throw Failure(FUSCO_E_OPTION, "%s.struct_size is %u; set it to sizeof(%s)", name, size, name)
        .limited(size, maxStructBytes);
  }
  return size;
}

// A copy of a caller's struct: fields that the caller does not know are zero. Throws E_OPTION if it is NULL,
// or has a field that is unknown here and not zero.
template <class T>
T structFrom(const T *given, const char *name) {
  if (given == nullptr) throw Failure(FUSCO_E_OPTION, "%s is NULL", name);
  const size_t size = statedSize(given, name);
  const size_t known = std::min(size, sizeof(T));
  const auto *bytes = reinterpret_cast<const uint8_t *>(given);
  if (std::any_of(bytes + known, bytes + size, [](uint8_t byte) { return byte != 0; })) {
    throw Failure(FUSCO_E_OPTION, "%s has a field that this version of the library does not know", name)
        .limited(size, sizeof(T));
  }
  T copy{};
  std::memcpy(&copy, given, known);
  copy.struct_size = sizeof(T);
  return copy;
}

// Fills a struct of the caller, if given, with as many fields as it has. Throws E_OPTION.
template <class T>
void structTo(T *given, const T &value, const char *name) {
  if (given == nullptr) return;
  const uint32_t size = statedSize(given, name);
  std::memcpy(given, &value, std::min<size_t>(size, sizeof(T)));
  given->struct_size = size;
}

// A call of the caller, and the structs that it points to, in the form of this version.
template <class C>
struct CallFrom {
  CallFrom(const C *given, const char *name) : call(structFrom(given, name)) {}
  C call;
};

template <>
struct CallFrom<fusco_dispatch_call> {
  CallFrom(const fusco_dispatch_call *given, const char *name) : call(structFrom(given, name)) {
    if (call.payloads == nullptr || call.payload_count == 0) return;
    const auto *at = reinterpret_cast<const uint8_t *>(call.payloads);
    const uint32_t size = statedSize(at, "fusco_payload");
    for (uint32_t i = 0; i < call.payload_count; i++) {
      if (statedSize(at + uint64_t{i} * size, "fusco_payload") != size) {
        throw Failure(FUSCO_E_OPTION, "payload %u has another struct_size than payload 0", i);
      }
    }
    // The usual case, which allocates nothing.
    if (size == sizeof(fusco_payload)) return;
    for (uint32_t i = 0; i < call.payload_count; i++) {
      payloads.push_back(
          structFrom(reinterpret_cast<const fusco_payload *>(at + uint64_t{i} * size), "fusco_payload"));
    }
    call.payloads = payloads.data();
  }
  fusco_dispatch_call call;
  std::vector<fusco_payload> payloads;
};

}  // namespace fusco
