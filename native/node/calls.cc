#include "calls.hpp"

namespace fusco_node {

namespace {

constexpr uint64_t maxRowBytes = uint64_t{1} << 53;
constexpr uint32_t maxPayloads = 1024;

}  // namespace

Call::Call(Exchange exchange, const Napi::Object &object, uint32_t ranks, Napi::Array &keep)
    : exchange_(exchange), ranks_(ranks) {
  switch (exchange) {
    case Exchange::dispatch:
      readDispatch(object, keep);
      break;
    case Exchange::combine:
      readCombine(object, keep);
      break;
    case Exchange::weightGradient:
      readWeightGradient(object, keep);
      break;
  }
}

fusco_status Call::run(fusco_plan *plan, fusco_stats *stats, fusco_error *error) const {
  switch (exchange_) {
    case Exchange::dispatch:
      return fusco_dispatch(plan, &dispatch_, stats, error);
    case Exchange::combine:
      return fusco_combine(plan, &combine_, stats, error);
    case Exchange::weightGradient:
      return fusco_weight_gradient(plan, &gradient_, stats, error);
  }
  return FUSCO_E_INTERNAL;
}

void Call::readDispatch(const Napi::Object &object, Napi::Array &keep) {
  const Napi::Value list = object.Get("payloads");
  if (!list.IsArray() || list.As<Napi::Array>().Length() > maxPayloads) {
    refuse(object.Env(), FUSCO_E_OPTION, "payloads must be an array of at most 1024");
  }
  const auto payloads = list.As<Napi::Array>();
  for (uint32_t i = 0; i < payloads.Length(); i++) {
    payloads_.push_back(payloadOf(payloads.Get(i), i, keep));
  }
  dispatch_.payloads = payloads_.data();
  dispatch_.payload_count = static_cast<uint32_t>(payloads_.size());
  dispatch_.origins = buffers(object, "origins", "origins", true, keep);
  dispatch_.scale = buffers(object, "scale", "scale", true, keep);
}

fusco_payload Call::payloadOf(const Napi::Value &value, uint32_t index, Napi::Array &keep) {
  const std::string name = "payload " + std::to_string(index);
  if (!value.IsObject()) refuse(value.Env(), FUSCO_E_OPTION, name + " must be an object");
  const auto object = value.As<Napi::Object>();
  const std::string per = textField(object, "per", "token");
  if (per != "token" && per != "entry") {
    refuse(value.Env(), FUSCO_E_OPTION, name + ": per must be token or entry");
  }
  fusco_payload payload{};
  payload.row_bytes = integerField(object, "rowBytes", 0, maxRowBytes);
  payload.per = per == "entry" ? FUSCO_PER_ENTRY : FUSCO_PER_TOKEN;
  payload.dtype = dtypeOf(value.Env(), textField(object, "dtype", "bytes"));
  payload.from = buffers(object, "from", name + ": from", false, keep);
  payload.to = buffers(object, "to", name + ": to", false, keep);
  return payload;
}

void Call::readCombine(const Napi::Object &object, Napi::Array &keep) {
  combine_.dtype = dtypeOf(object.Env(), textField(object, "dtype", "bytes"));
  combine_.row_bytes = integerField(object, "rowBytes", 0, maxRowBytes);
  combine_.from = buffers(object, "from", "from", false, keep);
  combine_.to = buffers(object, "to", "to", false, keep);
  combine_.weights = buffers(object, "weights", "weights", true, keep);
}

void Call::readWeightGradient(const Napi::Object &object, Napi::Array &keep) {
  gradient_.dtype = dtypeOf(object.Env(), textField(object, "dtype", "bytes"));
  gradient_.row_bytes = integerField(object, "rowBytes", 0, maxRowBytes);
  gradient_.output_gradient = buffers(object, "outputGradient", "outputGradient", false, keep);
  gradient_.from = buffers(object, "from", "from", false, keep);
  gradient_.to = buffers(object, "to", "to", false, keep);
}

const fusco_buffer *Call::buffers(const Napi::Object &object, const char *field, const std::string &name,
                                  bool optional, Napi::Array &keep) {
  const Napi::Value value = object.Get(field);
  if (optional && value.IsUndefined()) return nullptr;
  return buffers_.emplace_back(memoriesOf(value, name, ranks_, keep)).data();
}

}  // namespace fusco_node
