#include "rows.hpp"

namespace fusco_node {

namespace {

constexpr uint64_t maxInteger = uint64_t{1} << 53;

// Reads the fields of a call's object. Its buffers are used before the call returns.
class Reader {
 public:
  Reader(const Napi::Object &object, uint32_t rank)
      : object_(object), rank_(rank), keep_(Napi::Array::New(object.Env())) {}

  fusco_buffer buffer(const char *name) { return memoryOf(object_.Get(name), name, rank_, keep_); }
  uint64_t integer(const char *name, uint64_t max = maxInteger) const {
    return integerField(object_, name, 0, max);
  }
  uint32_t word(const char *name) const { return static_cast<uint32_t>(integer(name, UINT32_MAX)); }
  // Whether the field has the second of two values; E_OPTION for a third.
  bool choice(const char *name, const char *first, const char *second) const {
    const std::string text = textField(object_, name, first);
    if (text != first && text != second) {
      refuse(object_.Env(), FUSCO_E_OPTION, std::string(name) + " must be " + first + " or " + second);
    }
    return text == second;
  }
  bool has(const char *name) const { return !object_.Get(name).IsUndefined(); }
  Napi::Value field(const char *name) const { return object_.Get(name); }
  fusco_dtype dtype() const { return dtypeOf(object_.Env(), textField(object_, "dtype", "bytes")); }

 private:
  Napi::Object object_;
  uint32_t rank_;
  Napi::Array keep_;
};

fusco_gate_options gateOptions(const Reader &read) {
  fusco_gate_options options{};
  options.experts = read.word("experts");
  options.topk = read.word("topk");
  options.score = read.choice("score", "softmax", "sigmoid") ? FUSCO_SCORE_SIGMOID : FUSCO_SCORE_SOFTMAX;
  options.groups = read.word("groups");
  options.group_topk = read.word("groupTopk");
  options.group_score = read.choice("groupScore", "max", "top2") ? FUSCO_GROUP_TOP2 : FUSCO_GROUP_MAX;
  options.normalize = read.field("normalize").ToBoolean() ? 1 : 0;
  options.scale = read.field("scale").ToNumber().FloatValue();
  return options;
}

template <class Call>
Napi::Value run(const Napi::CallbackInfo &info, const Call &call,
                fusco_status (*work)(fusco_context *, const Call *, fusco_error *)) {
  // Asked for last: reading the call may run the caller's getters, and one of them may close the context.
  const std::shared_ptr<Engine> engine = Context::engineOf(info[0]);
  fusco_error error{};
  if (work(engine->handle(), &call, &error) != FUSCO_OK) throw errorOf(info.Env(), error);
  return info.Env().Undefined();
}

}  // namespace

fusco_fp8_call fp8CallOf(const Napi::Object &object, uint32_t rank) {
  Reader read(object, rank);
  return {read.dtype(),          read.integer("rows"), read.integer("hidden"),
          read.buffer("values"), read.buffer("codes"), read.buffer("scales")};
}

fusco_gate_call gateCallOf(const Napi::Object &object, uint32_t rank) {
  Reader read(object, rank);
  fusco_gate_call call{};
  call.options = gateOptions(read);
  call.tokens = read.integer("tokens");
  call.logits = read.buffer("logits");
  if (read.has("bias")) call.bias = read.buffer("bias");
  call.ids = read.buffer("ids");
  call.weights = read.buffer("weights");
  call.scores = read.buffer("scores");
  return call;
}

fusco_gate_backward_call gateBackwardCallOf(const Napi::Object &object, uint32_t rank) {
  Reader read(object, rank);
  fusco_gate_backward_call call{};
  call.options = gateOptions(read);
  call.tokens = read.integer("tokens");
  call.ids = read.buffer("ids");
  call.scores = read.buffer("scores");
  call.weights_gradient = read.buffer("weightsGradient");
  call.logits_gradient = read.buffer("logitsGradient");
  return call;
}

Napi::Value fp8Quantize(const Napi::CallbackInfo &info) {
  return run(info, fp8CallOf(objectArgument(info, 1), 0), fusco_fp8_quantize);
}

Napi::Value fp8Dequantize(const Napi::CallbackInfo &info) {
  return run(info, fp8CallOf(objectArgument(info, 1), 0), fusco_fp8_dequantize);
}

Napi::Value gate(const Napi::CallbackInfo &info) {
  return run(info, gateCallOf(objectArgument(info, 1), 0), fusco_gate);
}

Napi::Value gateBackward(const Napi::CallbackInfo &info) {
  return run(info, gateBackwardCallOf(objectArgument(info, 1), 0), fusco_gate_backward);
}

}  // namespace fusco_node
