// Describes what JavaScript sees, once: each entry becomes a method or function, and a line of `signatures`,
// which the typing in executor/native/types.ts is tested against.
#pragma once

#include "handle.hpp"

namespace fusco_node {

// The members of one JavaScript class.
template <class Class>
class Members {
 public:
  // `arity`: arguments of the constructor.
  Members(Napi::Env env, uint32_t arity) : signature_(Napi::Object::New(env)) {
    signature_.Set("constructor", arity);
  }

  // A function of the C interface whose first parameter is the handle; its types say what the arguments are.
  template <auto function>
  Members &call(const char *name) {
    return method(name, &Class::template call<function>, Bound<function>::inputs - 1);
  }
  // The same as a property.
  template <auto function>
  Members &property(const char *name) {
    return property(name, &Class::template read<function>);
  }
  Members &method(const char *name, Napi::Value (Class::*member)(const Napi::CallbackInfo &), size_t arity) {
    return add(name, Class::InstanceMethod(name, member), arity);
  }
  Members &method(const char *name, void (Class::*member)(const Napi::CallbackInfo &), size_t arity) {
    return add(name, Class::InstanceMethod(name, member), arity);
  }
  Members &property(const char *name, Napi::Value (Class::*getter)(const Napi::CallbackInfo &)) {
    members_.push_back(Class::InstanceAccessor(name, getter, nullptr));
    signature_.Set(name, signature_.Env().Null());
    return *this;
  }

 private:
  friend class Exports;
  using Member = Napi::ClassPropertyDescriptor<Class>;

  Members &add(const char *name, const Member &member, size_t arity) {
    members_.push_back(member);
    signature_.Set(name, static_cast<uint32_t>(arity));
    return *this;
  }

  Napi::Object signature_;
  std::vector<Member> members_;
};

// What the addon exports.
class Exports {
 public:
  explicit Exports(Napi::Object exports)
      : exports_(exports),
        signatures_(Napi::Object::New(exports.Env())),
        functions_(Napi::Object::New(exports.Env())) {
    const uint32_t version = fusco_version();
    exports_.Set("version", std::to_string(version >> 16) + "." + std::to_string(version >> 8 & 255) + "." +
                                std::to_string(version & 255));
    exports_.Set("signatures", signatures_);
    signatures_.Set("functions", functions_);
  }

  template <class Class>
  Exports &add(const Members<Class> &members) {
    exports_.Set(Class::name, Class::DefineClass(exports_.Env(), Class::name, members.members_));
    signatures_.Set(Class::name, members.signature_);
    return *this;
  }
  // A function of the C interface; its types say what the arguments are.
  template <auto target>
  Exports &call(const char *name) {
    return function(name, Bound<target>::template call<0>, Bound<target>::inputs);
  }
  Exports &function(const char *name, Napi::Value (*target)(const Napi::CallbackInfo &), size_t arity) {
    exports_.Set(name, Napi::Function::New(exports_.Env(), target, name));
    functions_.Set(name, static_cast<uint32_t>(arity));
    return *this;
  }

 private:
  Napi::Object exports_;
  Napi::Object signatures_;
  Napi::Object functions_;
};

// All of the published addon (methods.cc).
void describe(Napi::Env env, Exports &exports);

}  // namespace fusco_node
