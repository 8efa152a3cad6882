#include "values.hpp"

#include <cmath>

namespace fusco_node {

namespace {

// node-addon-api does not know Float16Array.
size_t elementBytes(const Napi::Value &array, napi_typedarray_type type) {
  return type == napi_float16_array ? 2 : array.As<Napi::TypedArray>().ElementSize();
}

struct Place {
  Napi::Env env;
  std::string name;
  uint32_t rank;

  [[noreturn]] void refuse(const char *what) const {
    const std::string message = name + " of rank " + std::to_string(rank) + " " + what;
    fusco_node::refuse(env, FUSCO_E_BUFFER, message, static_cast<int32_t>(rank));
  }
};

// A resizable buffer may give its pages back while a thread writes them, and a detached one has none.
void checkBacking(const Napi::Value &backing, const Place &place) {
  bool detached = false;
  if (napi_is_detached_arraybuffer(place.env, backing, &detached) == napi_ok && detached) {
    place.refuse("is detached");
  }
  if (backing.As<Napi::Object>().Get("resizable").ToBoolean()) {
    place.refuse("is resizable: its memory may be freed while it is in use");
  }
}

fusco_buffer externalOf(const Napi::Object &object, const Place &place) {
  const std::optional<uint64_t> address = word64(object.Get("address"));
  const std::optional<uint64_t> bytes = wholeNumber(object.Get("bytes"), maxInteger);
  if (!address || !bytes) {
    place.refuse("is neither a buffer nor {address: a 64-bit BigInt, bytes: a whole number}");
  }
  return {reinterpret_cast<void *>(static_cast<uintptr_t>(*address)), *bytes};
}

}  // namespace

std::optional<uint64_t> wholeNumber(const Napi::Value &value, uint64_t max) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  // NaN compares false.
  if (!(number >= 0 && number <= static_cast<double>(max) && number == std::floor(number))) return {};
  return static_cast<uint64_t>(number);
}

std::optional<uint64_t> word64(const Napi::Value &value) {
  bool lossless = false;
  const uint64_t word = value.IsBigInt() ? value.As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  return lossless ? std::optional(word) : std::nullopt;
}

Napi::Error errorOf(Napi::Env env, const fusco_error &error) {
  Napi::Error result = Napi::Error::New(env, error.message);
  Napi::Object fields = result.Value();
  fields.Set("code", fusco_status_name(error.status));
  if (error.rank >= 0) fields.Set("rank", error.rank);
  if (error.path[0] != '\0') fields.Set("path", std::string(error.path));
  if (error.has_limit != 0) {
    fields.Set("value", static_cast<double>(error.value));
    fields.Set("limit", static_cast<double>(error.limit));
  }
  return result;
}

void refuse(Napi::Env env, fusco_status status, const std::string &message, int32_t rank) {
  fusco_error error{};
  error.status = status;
  error.rank = rank;
  message.copy(error.message, sizeof error.message - 1);
  throw errorOf(env, error);
}

fusco_buffer memoryOf(const Napi::Value &value, const std::string &name, uint32_t rank, Napi::Array &keep) {
  const Napi::Env env = value.Env();
  const Place place{env, name, rank};
  if (!value.IsObject()) place.refuse("is neither a buffer nor {address, bytes}");
  void *data = nullptr;
  size_t bytes = 0;
  napi_value backing = nullptr;
  if (value.IsTypedArray()) {
    napi_typedarray_type type;
    NAPI_THROW_IF_FAILED(env, napi_get_typedarray_info(env, value, &type, &bytes, &data, &backing, nullptr),
                         fusco_buffer{});
    bytes *= elementBytes(value, type);
  } else if (value.IsDataView()) {
    NAPI_THROW_IF_FAILED(env, napi_get_dataview_info(env, value, &bytes, &data, &backing, nullptr),
                         fusco_buffer{});
  } else if (value.IsArrayBuffer()) {
    backing = value;
    NAPI_THROW_IF_FAILED(env, napi_get_arraybuffer_info(env, value, &data, &bytes), fusco_buffer{});
  } else {
    return externalOf(value.As<Napi::Object>(), place);
  }
  checkBacking(Napi::Value(env, backing), place);
  // The backing store: a view may be replaced by the caller, the memory must not go.
  keep[keep.Length()] = Napi::Value(env, backing);
  return {data, bytes};
}

std::vector<fusco_buffer> memoriesOf(const Napi::Value &list, const std::string &name, uint32_t ranks,
                                     Napi::Array &keep) {
  const uint32_t given = list.IsArray() ? list.As<Napi::Array>().Length() : 0;
  if (given != ranks) {
    refuse(list.Env(), FUSCO_E_BUFFER,
           name + ": " + std::to_string(given) + " buffers for " + std::to_string(ranks) + " ranks");
  }
  std::vector<fusco_buffer> memories;
  memories.reserve(ranks);
  for (uint32_t rank = 0; rank < ranks; rank++) {
    memories.push_back(memoryOf(list.As<Napi::Array>().Get(rank), name, rank, keep));
  }
  return memories;
}

void setNumbers(Napi::Object object, std::initializer_list<std::pair<const char *, uint64_t>> fields) {
  for (const auto &[name, number] : fields) object.Set(name, static_cast<double>(number));
}

Napi::Object statsObject(Napi::Env env, const fusco_stats &stats) {
  Napi::Object object = Napi::Object::New(env);
  setNumbers(object, {{"bytesRead", stats.bytes_read},
                      {"bytesWritten", stats.bytes_written},
                      {"rows", stats.rows},
                      {"nanoseconds", stats.nanoseconds},
                      {"started", stats.started}});
  return object;
}

Napi::Value valueFor(Napi::Env env, const fusco_cuda_report &report) {
  constexpr const char *paths[] = {"auto", "direct", "once"};
  Napi::Object object = statsObject(env, report.stats);
  object.Set("path", paths[report.path]);
  object.Set("tmaPayloads", report.tma_payloads);
  object.Set("sms", report.sms);
  return object;
}

}  // namespace fusco_node
