// The one way in which the library's inside reports an error; api.cc turns it into a status and a
// fusco_error.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "fusco.h"

namespace fusco {

// An argument in the type that its conversion takes: %d for enumerations, %llu for 64 bits, sizes included.
template <class T>
auto printable(T value) {
  if constexpr (std::is_enum_v<T>) {
    return static_cast<int>(value);
  } else if constexpr (std::is_unsigned_v<T> && sizeof(T) == sizeof(unsigned long long)) {
    return static_cast<unsigned long long>(value);
  } else {
    return value;
  }
}

// Thrown inside the library only. Holds its text in place, so that throwing needs no memory of ours.
struct Failure {
  fusco_error error{};

  template <class... Args>
  Failure(fusco_status status, const char *format, Args... args) {
    error.status = status;
    error.rank = -1;
    if constexpr (sizeof...(Args) == 0) {
      std::snprintf(error.message, sizeof error.message, "%s", format);
    } else {
      std::snprintf(error.message, sizeof error.message, format, printable(args)...);
    }
  }

  Failure &atRank(uint32_t rank) {
    error.rank = static_cast<int32_t>(rank);
    return *this;
  }
  Failure &limited(uint64_t value, uint64_t limit) {
    error.value = static_cast<int64_t>(value);
    error.limit = static_cast<int64_t>(limit);
    error.has_limit = 1;
    return *this;
  }
  template <class... Args>
  Failure &at(const char *format, Args... args) {
    std::snprintf(error.path, sizeof error.path, format, printable(args)...);
    return *this;
  }
};

}  // namespace fusco
