// Between JavaScript values and the C interface: errors, memory, results. The only header that includes
// napi.h.
#pragma once

#include <napi.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fusco_cuda.h"

namespace fusco_node {

// The JavaScript error of a failed call: `code`, and if the library gave them `rank`, `path`, `value`,
// `limit`.
Napi::Error errorOf(Napi::Env env, const fusco_error &error);

// Throws an error with this code.
[[noreturn]] void refuse(Napi::Env env, fusco_status status, const std::string &message, int32_t rank = -1);

// Throws the error of a call that failed.
inline void check(Napi::Env env, fusco_status status, const fusco_error &error) {
  if (status != FUSCO_OK) throw errorOf(env, error);
}

// Calls a function of the C interface, which takes the error last, and throws the error of its failure.
template <class Function, class... Arguments>
void run(Napi::Env env, Function function, Arguments... arguments) {
  fusco_error error{};
  check(env, function(arguments..., &error), error);
}

// The largest whole number that a JavaScript number holds exactly, with all smaller ones.
constexpr uint64_t maxInteger = (uint64_t{1} << 53) - 1;

// A number that is whole and from 0 to `max`, and a BigInt of 64 bits; nothing for all other values.
std::optional<uint64_t> wholeNumber(const Napi::Value &value, uint64_t max);
std::optional<uint64_t> word64(const Napi::Value &value);

// The bytes behind a Buffer, typed array, DataView, ArrayBuffer (Wasm and shared memory included) or
// {address, bytes}. Throws E_BUFFER for anything else and for memory that may move: resizable or detached
// buffers. What must stay referenced while the bytes are in use is appended to `keep`.
fusco_buffer memoryOf(const Napi::Value &value, const std::string &name, uint32_t rank, Napi::Array &keep);

// The same for an array with one element per rank.
std::vector<fusco_buffer> memoriesOf(const Napi::Value &list, const std::string &name, uint32_t ranks,
                                     Napi::Array &keep);

// A copy of the elements of a typed array with `count` elements of the size of T. Throws E_OPTION, E_BUFFER.
template <class T>
std::vector<T> elementsOf(const Napi::Value &value, const std::string &name, size_t count) {
  Napi::Array keep = Napi::Array::New(value.Env());
  const fusco_buffer memory = memoryOf(value, name, 0, keep);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().ElementSize() != sizeof(T) ||
      memory.bytes != count * sizeof(T)) {
    refuse(value.Env(), FUSCO_E_OPTION,
           name + " must be a typed array of " + std::to_string(count) + " elements of " +
               std::to_string(sizeof(T)) + " bytes");
  }
  const auto *first = static_cast<const T *>(memory.data);
  return {first, first + count};
}

// Results of C functions as JavaScript values: addresses are BigInts, int is a boolean.
inline Napi::Value valueFor(Napi::Env env, void *address) {
  return Napi::BigInt::New(env, static_cast<uint64_t>(reinterpret_cast<uintptr_t>(address)));
}
inline Napi::Value valueFor(Napi::Env env, int truth) { return Napi::Boolean::New(env, truth != 0); }
inline Napi::Value valueFor(Napi::Env env, double number) { return Napi::Number::New(env, number); }
inline Napi::Value valueFor(Napi::Env env, uint32_t number) { return Napi::Number::New(env, number); }
inline Napi::Value valueFor(Napi::Env env, uint64_t number) {
  return Napi::Number::New(env, static_cast<double>(number));
}
inline Napi::Value valueFor(Napi::Env env, const char *text) { return Napi::String::New(env, text); }

// Adds number properties to an object.
void setNumbers(Napi::Object object, std::initializer_list<std::pair<const char *, uint64_t>> fields);

Napi::Object statsObject(Napi::Env env, const fusco_stats &stats);
inline Napi::Value valueFor(Napi::Env env, const fusco_stats &stats) { return statsObject(env, stats); }
Napi::Value valueFor(Napi::Env env, const fusco_cuda_report &report);

}  // namespace fusco_node
