// What all JavaScript classes over handles of the C interface have in common: they know their objects from
// others, closing is idempotent, what is closed refuses to be used with E_CLOSED, and the garbage collector
// closes what nobody closed.
#pragma once

#include <algorithm>
#include <memory>

#include "bind.hpp"

namespace fusco_node {

template <class T, void (*destroy)(T *)>
struct Destroy {
  void operator()(T *handle) const { destroy(handle); }
};

// A handle of the C interface that its owner destroys.
template <class T, void (*destroy)(T *)>
using Owned = std::unique_ptr<T, Destroy<T, destroy>>;

// Marks the objects of a class, so that another object in their place is refused instead of misread.
constexpr napi_type_tag tagOf(const char *name) {
  uint64_t lower = 0xcbf29ce484222325;
  uint64_t upper = 0x9ae16a3b2f90404f;
  for (; *name != '\0'; name++) {
    lower = (lower ^ static_cast<uint8_t>(*name)) * 0x100000001b3;
    upper = (upper ^ static_cast<uint8_t>(*name)) * 0x100000001b3;
  }
  return {lower, upper};
}

// `Class` has a `name` in JavaScript and a `label` for messages. `Pointer` is a unique_ptr or a shared_ptr;
// null means closed.
template <class Class, class Pointer>
class Handle : public Napi::ObjectWrap<Class> {
 public:
  // What the object `value` holds. Throws E_OPTION for an object of another class and E_CLOSED after close().
  static const Pointer &handleOf(const Napi::Value &value) {
    return static_cast<Handle &>(objectOf(value)).open(value.Env());
  }
  static auto *nativeOf(const Napi::Value &value) {
    handleOf(value);
    return objectOf(value).native();
  }

  // Throws E_OPTION for an object of another class.
  static Class &objectOf(const Napi::Value &value) {
    if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&tag)) {
      refuse(value.Env(), FUSCO_E_OPTION,
             std::string("the argument must be an object of class ") + Class::name);
    }
    return *Class::Unwrap(value.As<Napi::Object>());
  }

  // A function of the C interface as a method: its first parameter is this handle.
  template <auto function>
  Napi::Value call(const Napi::CallbackInfo &info) {
    return Bound<function>::template call<1>(info);
  }
  // A function of this handle as a property. It may be asked after close(), with NULL.
  template <auto function>
  Napi::Value read(const Napi::CallbackInfo &info) {
    return valueFor(info.Env(), function(handle_ == nullptr ? nullptr : self().native()));
  }
  Napi::Value closed(const Napi::CallbackInfo &info) {
    return Napi::Boolean::New(info.Env(), self().isClosed());
  }
  void close(const Napi::CallbackInfo &) { handle_ = nullptr; }
  bool isClosed() const { return handle_ == nullptr; }
  // The handle of the C interface, of an object that is not closed.
  auto *native() const { return handle_.get(); }
  // Length of arrays with one buffer per rank; 0 where no call takes them.
  uint32_t ranks() const { return ranks_; }

 protected:
  explicit Handle(const Napi::CallbackInfo &info) : Napi::ObjectWrap<Class>(info) {
    this->Value().TypeTag(&tag);
  }

  const Pointer &open(Napi::Env env) const {
    if (self().isClosed()) refuse(env, FUSCO_E_CLOSED, std::string(Class::label) + " is closed");
    return handle_;
  }

  // Makes the handle with a function of the C interface, whose last parameters are the new handle and the
  // error.
  template <class Function, class... Arguments>
  void make(Napi::Env env, Function create, Arguments... arguments) {
    typename Pointer::pointer made = nullptr;
    run(env, create, arguments..., &made);
    handle_.reset(made);
  }

  Pointer handle_;
  uint32_t ranks_ = 0;

 private:
  const Class &self() const { return static_cast<const Class &>(*this); }

  static constexpr napi_type_tag tag = tagOf(Class::name);
};

// A class whose constructor takes what `create` takes: first the object that the new one belongs to.
template <class Class, auto create, class T, void (*destroy)(T *)>
class Created : public Handle<Class, Owned<T, destroy>> {
 public:
  explicit Created(const Napi::CallbackInfo &info) : Handle<Class, Owned<T, destroy>>(info) {
    this->handle_.reset(Bound<create>::template invoke<0>(info));
    this->ranks_ = ClassOf<typename Bound<create>::First>::type::objectOf(info[0]).ranks();
  }
};

// A text as a template argument.
template <size_t length>
struct Text {
  constexpr Text(const char (&from)[length]) { std::copy_n(from, length, data); }
  char data[length];
};

// Such a class whose methods are all functions of the C interface.
template <Text jsName, Text text, auto create, auto destroy>
class CreatedHandle : public Created<CreatedHandle<jsName, text, create, destroy>, create,
                                     typename Bound<destroy>::First, destroy> {
 public:
  static constexpr const char *name = jsName.data;
  static constexpr const char *label = text.data;

  using CreatedHandle::Created::Created;
};

}  // namespace fusco_node
