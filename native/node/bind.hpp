// Calls functions of the C interface with the arguments of a JavaScript call, read as the C types say:
//
//   uint8_t, uint32_t, uint64_t, double   a number; whole numbers in the range of the type (args.hpp)
//   void *, const void *                  an address: BigInt
//   a handle                              an object of the JavaScript class that wraps it (handle.hpp)
//   const T *                             a plain object, which Argument<const T *> or structOf<T> reads
//   T * in front of the error             no argument: the result, which valueFor converts
//   fusco_error *, last                   no argument: what is thrown if the function fails
#pragma once

#include <tuple>

#include "args.hpp"

namespace fusco_node {

// The JavaScript class that wraps a handle of the C interface; specialized next to each class.
template <class T>
struct ClassOf;

template <class T>
concept IsHandle = requires {
  typename ClassOf<std::remove_const_t<T>>::type;
};

// A struct of the C interface as a plain object describes it; `rank` is the one that its memory belongs to.
template <class T>
T structOf(const Fields &fields, uint32_t rank);

// What arguments read before have left for the next.
struct Reading {
  Napi::Array keep;
  uint32_t rank = 0;
  uint32_t ranks = 0;  // of the handle: the length of arrays with one buffer per rank
};

// An exchange, which calls.hpp reads.
template <class T>
concept IsCall = std::is_same_v<T, fusco_dispatch_call> || std::is_same_v<T, fusco_combine_call> ||
    std::is_same_v<T, fusco_weight_gradient_call> || std::is_same_v<T, fusco_combine_gradient_call>;

// What a function may return through a pointer.
template <class T>
concept IsResult = std::is_scalar_v<T> || requires(Napi::Env env, const T &value) {
  valueFor(env, value);
};

// One argument: read when it is made. Handles are looked at again in get(), after all arguments were read: a
// getter of the caller may close one.
template <class P>
class Argument {
 public:
  Argument(const Napi::Value &value, const std::string &name, Reading &reading)
      : value_(valueOf<P>(value, name)) {
    // Functions that take memory of one rank take the rank first.
    if constexpr (std::is_same_v<P, uint32_t>) reading.rank = value_;
  }
  P get() const { return value_; }

 private:
  P value_;
};

template <class T>
requires IsHandle<T>
class Argument<T *> {
 public:
  Argument(const Napi::Value &value, const std::string &, Reading &reading) : value_(value) {
    get();
    reading.ranks = Class::objectOf(value).ranks();
  }
  T *get() const { return Class::nativeOf(value_); }

 private:
  using Class = typename ClassOf<std::remove_const_t<T>>::type;
  Napi::Value value_;
};

template <class T>
requires(std::is_class_v<T> && !IsHandle<T> && !IsCall<T>) class Argument<const T *> {
 public:
  Argument(const Napi::Value &value, const std::string &name, Reading &reading)
      : value_(structOf<T>(Fields(value, name, "", reading.keep), reading.rank)) {}
  const T *get() const { return &value_; }

 private:
  T value_;
};

template <auto function>
struct Bound;

template <class R, class... P, R (*function)(P...)>
struct Bound<function> {
 private:
  static constexpr bool canFail = std::is_same_v<R, fusco_status>;
  template <size_t index>
  using Parameter = std::tuple_element_t<index, std::tuple<P..., void, void>>;
  static constexpr size_t resultIndex = canFail && sizeof...(P) > 1 ? sizeof...(P) - 2 : sizeof...(P);
  using Result = std::remove_pointer_t<Parameter<resultIndex>>;
  static constexpr bool hasResult =
      IsResult<Result> && std::is_pointer_v<Parameter<resultIndex>> && !std::is_const_v<Result>;

 public:
  using First = std::remove_pointer_t<Parameter<0>>;
  // How many parameters are arguments.
  static constexpr size_t inputs = sizeof...(P) - (canFail ? 1 : 0) - (hasResult ? 1 : 0);

  // Returns the result of the function as its C type; undefined or void if it has none. The first
  // `receivers` parameters, 0 or 1, are `this`.
  template <size_t receivers>
  static auto invoke(const Napi::CallbackInfo &info) {
    return invoke<receivers>(info, std::make_index_sequence<inputs>{});
  }

  // The same as a JavaScript value.
  template <size_t receivers>
  static Napi::Value call(const Napi::CallbackInfo &info) {
    if constexpr (canFail && !hasResult) {
      invoke<receivers>(info);
      return info.Env().Undefined();
    } else {
      return valueFor(info.Env(), invoke<receivers>(info));
    }
  }

 private:
  template <size_t receivers, size_t... index>
  static auto invoke(const Napi::CallbackInfo &info, std::index_sequence<index...>) {
    const Napi::Env env = info.Env();
    Reading reading{Napi::Array::New(env)};
    const auto value = [&](size_t i) { return i < receivers ? info.This() : info[i - receivers]; };
    const auto name = [&](size_t i) { return "argument " + std::to_string(i - receivers); };
    // Braces: from left to right.
    const std::tuple<Argument<Parameter<index>>...> arguments{
        Argument<Parameter<index>>(value(index), name(index), reading)...};
    if constexpr (!canFail) {
      return function(std::get<index>(arguments).get()...);
    } else if constexpr (hasResult) {
      Result result{};
      if constexpr (requires { result.struct_size; }) result = fusco_sized<Result>();
      fusco_error error{};
      check(env, function(std::get<index>(arguments).get()..., &result, &error), error);
      return result;
    } else {
      fusco_error error{};
      check(env, function(std::get<index>(arguments).get()..., &error), error);
    }
  }
};

}  // namespace fusco_node
