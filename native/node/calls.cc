#include "calls.hpp"

namespace fusco_node {

namespace {

constexpr uint32_t maxPayloads = 1024;

}  // namespace

template <>
fusco_payload Call<fusco_dispatch_call>::payloadOf(const Fields &fields) {
  fusco_payload payload = fusco_sized<fusco_payload>();
  payload.row_bytes = fields.get<uint64_t>("rowBytes");
  payload.per = fields.choice<fusco_per>("per", {{"token", FUSCO_PER_TOKEN}, {"entry", FUSCO_PER_ENTRY}});
  payload.dtype = fields.dtype();
  payload.from = buffers(fields, "from");
  payload.to = buffers(fields, "to");
  return payload;
}

template <>
void Call<fusco_dispatch_call>::read(const Fields &fields) {
  const Napi::Value list = fields.at("payloads");
  if (!list.IsArray() || list.As<Napi::Array>().Length() > maxPayloads) {
    refuse(fields.env(), FUSCO_E_OPTION, "payloads must be an array of at most 1024");
  }
  const auto payloads = list.As<Napi::Array>();
  for (uint32_t i = 0; i < payloads.Length() && i < maxPayloads; i++) {
    payloads_.push_back(payloadOf(Fields(payloads.Get(i), "payload " + std::to_string(i), fields)));
  }
  call_.payloads = payloads_.data();
  call_.payload_count = static_cast<uint32_t>(payloads_.size());
  call_.origins = optionalBuffers(fields, "origins");
  call_.scale = optionalBuffers(fields, "scale");
}

template <class C>
void Call<C>::readRows(const Fields &fields) {
  call_.dtype = fields.dtype();
  call_.row_bytes = fields.get<uint64_t>("rowBytes");
  call_.from = buffers(fields, "from");
  call_.to = buffers(fields, "to");
}

template <>
void Call<fusco_combine_call>::read(const Fields &fields) {
  readRows(fields);
  call_.weights = optionalBuffers(fields, "weights");
}

template <>
void Call<fusco_weight_gradient_call>::read(const Fields &fields) {
  readRows(fields);
  call_.output_gradient = buffers(fields, "outputGradient");
}

template <>
void Call<fusco_combine_gradient_call>::read(const Fields &fields) {
  readRows(fields);
  call_.output_gradient = buffers(fields, "outputGradient");
  call_.weights = buffers(fields, "weights");
  call_.weights_gradient = buffers(fields, "weightsGradient");
  call_.origins = optionalBuffers(fields, "origins");
}

}  // namespace fusco_node
