// Between JavaScript values and the C interface: errors, options, memory. The only header that includes
// napi.h.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "fusco.h"

namespace fusco_node {

// The JavaScript error of a failed call: `code`, and where the library gave them `rank`, `path`, `value`,
// `limit`.
Napi::Error errorOf(Napi::Env env, const fusco_error &error);

// Throws an error with this code unless the caller's arguments are right.
[[noreturn]] void refuse(Napi::Env env, fusco_status status, const std::string &message, int32_t rank = -1);

// Reads fields of plain objects. Throws E_OPTION that names the field.
uint64_t integerField(const Napi::Object &object, const char *name, uint64_t fallback, uint64_t max);
std::string textField(const Napi::Object &object, const char *name, const char *fallback);
Napi::Object objectArgument(const Napi::CallbackInfo &info, size_t index);

fusco_dtype dtypeOf(Napi::Env env, const std::string &name);

// The bytes behind a Buffer, typed array, DataView, ArrayBuffer (Wasm and shared memory included) or
// {address, bytes}. Throws E_BUFFER for anything else and for memory that may move: resizable or detached
// buffers. What must stay referenced while the bytes are in use is appended to `keep`.
fusco_buffer memoryOf(const Napi::Value &value, const std::string &name, uint32_t rank, Napi::Array &keep);

// The same for an array with one element per rank.
std::vector<fusco_buffer> memoriesOf(const Napi::Value &list, const std::string &name, uint32_t ranks,
                                     Napi::Array &keep);

Napi::Object statsObject(Napi::Env env, const fusco_stats &stats);

}  // namespace fusco_node
