#include "args.hpp"

namespace fusco_node {

uint64_t integerOf(const Napi::Value &value, const std::string &name, uint64_t max) {
  if (const std::optional<uint64_t> number = wholeNumber(value, max)) return *number;
  refuse(value.Env(), FUSCO_E_OPTION, name + " must be a whole number from 0 to " + std::to_string(max));
}

double numberOf(const Napi::Value &value, const std::string &name) {
  if (!value.IsNumber()) refuse(value.Env(), FUSCO_E_OPTION, name + " must be a number");
  return value.As<Napi::Number>().DoubleValue();
}

bool booleanOf(const Napi::Value &value, const std::string &name) {
  if (!value.IsBoolean()) refuse(value.Env(), FUSCO_E_OPTION, name + " must be a boolean");
  return value.As<Napi::Boolean>().Value();
}

uint64_t wordOf(const Napi::Value &value, const std::string &name) {
  if (const std::optional<uint64_t> word = word64(value)) return *word;
  refuse(value.Env(), FUSCO_E_OPTION, name + " must be a 64-bit BigInt");
}

std::string textOf(const Napi::Value &value, const std::string &name) {
  if (!value.IsString()) refuse(value.Env(), FUSCO_E_OPTION, name + " must be a string");
  return value.As<Napi::String>();
}

Fields::Fields(const Napi::Value &object, const std::string &name, const std::string &prefix,
               const Napi::Array &keep)
    : prefix_(prefix), keep_(keep) {
  if (!object.IsObject()) refuse(object.Env(), FUSCO_E_OPTION, name + " must be an object");
  object_ = object.As<Napi::Object>();
}

fusco_dtype Fields::dtype() const {
  return choice<fusco_dtype>("dtype",
                             {{"bytes", FUSCO_DTYPE_BYTES},
                              {"f32", FUSCO_DTYPE_F32},
                              {"f16", FUSCO_DTYPE_F16},
                              {"bf16", FUSCO_DTYPE_BF16},
                              {"fp8", FUSCO_DTYPE_BYTES}},
                             FUSCO_E_DTYPE);
}

}  // namespace fusco_node
