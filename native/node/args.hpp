// Reads arguments of JavaScript calls and fields of plain objects. A number that is NaN, a fraction, negative
// or out of range is never converted: it throws E_OPTION, which names the argument or the field.
#pragma once

#include <limits>
#include <type_traits>

#include "values.hpp"

namespace fusco_node {

// A whole number from 0 to `max`.
uint64_t integerOf(const Napi::Value &value, const std::string &name, uint64_t max);
double numberOf(const Napi::Value &value, const std::string &name);
bool booleanOf(const Napi::Value &value, const std::string &name);
// A 64-bit BigInt.
uint64_t wordOf(const Napi::Value &value, const std::string &name);
std::string textOf(const Napi::Value &value, const std::string &name);

// A value as the C type: uint8_t to uint64_t, float, double, bool, std::string; pointers are BigInts.
template <class T>
T valueOf(const Napi::Value &value, const std::string &name) {
  if constexpr (std::is_same_v<T, bool>) {
    return booleanOf(value, name);
  } else if constexpr (std::is_unsigned_v<T>) {
    constexpr uint64_t most = std::numeric_limits<T>::max();
    return static_cast<T>(integerOf(value, name, most < maxInteger ? most : maxInteger));
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(numberOf(value, name));
  } else if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<T>(static_cast<uintptr_t>(wordOf(value, name)));
  } else {
    return textOf(value, name);
  }
}

// One of the named values; the first of them for undefined. Any other throws `status`.
template <class T>
using Choices = std::initializer_list<std::pair<const char *, T>>;

template <class T>
T choiceOf(const Napi::Value &value, const std::string &name, Choices<T> choices,
           fusco_status status = FUSCO_E_OPTION) {
  if (value.IsUndefined()) return choices.begin()->second;
  const std::string given = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  std::string known;
  for (const auto &[text, choice] : choices) {
    if (given == text) return choice;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  refuse(value.Env(), status, name + " must be one of " + known);
}

// The fields of a plain object. Reading one may run a getter of the caller.
class Fields {
 public:
  // An argument of a call. `keep` collects what must stay referenced while memory of the fields is in use.
  Fields(const Napi::CallbackInfo &info, size_t index, const Napi::Array &keep)
      : Fields(info[index], "argument " + std::to_string(index), "", keep) {}
  // An object within another: messages start with its name.
  Fields(const Napi::Value &object, const std::string &name, const Fields &outer)
      : Fields(object, name, name + ": ", outer.keep_) {}
  Fields(const Napi::Value &object, const std::string &name, const std::string &prefix,
         const Napi::Array &keep);

  Napi::Env env() const { return object_.Env(); }
  Napi::Value at(const char *name) const { return object_.Get(name); }
  bool has(const char *name) const { return !at(name).IsUndefined(); }

  // Undefined reads as `fallback`.
  template <class T>
  T get(const char *name, T fallback = {}) const {
    const Napi::Value value = at(name);
    return value.IsUndefined() ? fallback : valueOf<T>(value, prefix_ + name);
  }
  uint64_t integer(const char *name, uint64_t max, uint64_t fallback = 0) const {
    const Napi::Value value = at(name);
    return value.IsUndefined() ? fallback : integerOf(value, prefix_ + name, max);
  }
  template <class T>
  T choice(const char *name, Choices<T> choices, fusco_status status = FUSCO_E_OPTION) const {
    return choiceOf(at(name), prefix_ + name, choices, status);
  }
  // Throws E_DTYPE.
  fusco_dtype dtype() const;

  // Memory of one rank, and one buffer per rank. Throw E_BUFFER.
  fusco_buffer memory(const char *name, uint32_t rank = 0) const {
    return memoryOf(at(name), prefix_ + name, rank, keep_);
  }
  std::vector<fusco_buffer> memories(const char *name, uint32_t ranks) const {
    return memoriesOf(at(name), prefix_ + name, ranks, keep_);
  }
  template <class T>
  std::vector<T> elements(const char *name, size_t count) const {
    return elementsOf<T>(at(name), prefix_ + name, count);
  }

 private:
  Napi::Object object_;
  std::string prefix_;
  mutable Napi::Array keep_;
};

}  // namespace fusco_node
