#include "audit.hpp"

namespace fusco_node {

namespace {

// In the order of their values.
constexpr const char *pers[] = {"token", "entry"};
constexpr const char *blocks[] = {"expert", "source", "one"};
constexpr const char *orders[] = {"sorted", "any"};
constexpr const char *fillers[] = {"zero", "any"};
constexpr const char *founds[] = {"unknown", "zeros", "token", "previous", "nothing"};

// One of these names; undefined is the first.
template <class T, size_t count>
T namedOf(const Fields &fields, const char *field, const char *const (&names)[count]) {
  const Napi::Value value = fields.at(field);
  if (value.IsUndefined()) return T{};
  const std::string given = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  std::string known;
  for (size_t i = 0; i < count; i++) {
    if (given == names[i]) return static_cast<T>(i);
    known += (i == 0 ? "" : ", ") + std::string(names[i]);
  }
  refuse(fields.env(), FUSCO_E_OPTION, std::string(field) + " must be one of " + known);
}

fusco_audit_layout layoutOf(const Fields &fields) {
  auto layout = fusco_sized<fusco_audit_layout>();
  layout.per = namedOf<fusco_per>(fields, "per", pers);
  layout.blocks = namedOf<fusco_audit_blocks>(fields, "blocks", blocks);
  layout.order = namedOf<fusco_audit_row_order>(fields, "order", orders);
  layout.align = fields.get<uint32_t>("align");
  layout.padding = namedOf<fusco_audit_filler>(fields, "padding", fillers);
  layout.tail = namedOf<fusco_audit_filler>(fields, "tail", fillers);
  const bool isEqual = fields.at("slots").IsString() && fields.get<std::string>("slots") == "equal";
  layout.slots = isEqual ? FUSCO_AUDIT_SLOTS_EQUAL : fields.get<uint64_t>("slots");
  layout.accumulate =
      fields.choice<fusco_dtype>("accumulate", {{"f32", FUSCO_DTYPE_F32}, {"payload", FUSCO_DTYPE_BYTES}});
  layout.partials = fields.get<uint32_t>("partials");
  return layout;
}

Napi::Value layoutFor(Napi::Env env, const fusco_audit_layout &layout) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("per", pers[layout.per]);
  object.Set("blocks", blocks[layout.blocks]);
  object.Set("order", orders[layout.order]);
  object.Set("align", layout.align);
  object.Set("padding", fillers[layout.padding]);
  object.Set("tail", fillers[layout.tail]);
  if (layout.slots == FUSCO_AUDIT_SLOTS_EQUAL) {
    object.Set("slots", "equal");
  } else {
    setNumbers(object, {{"slots", layout.slots}});
  }
  object.Set("accumulate", layout.accumulate == FUSCO_DTYPE_F32 ? "f32" : "payload");
  object.Set("partials", layout.partials);
  return object;
}

Napi::Value differenceFor(Napi::Env env, const fusco_audit_difference &difference) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("kind", fusco_audit_kind_name(difference.kind));
  object.Set("source", difference.source);
  object.Set("token", difference.token);
  object.Set("k", difference.k);
  object.Set("found", founds[difference.found]);
  object.Set("foundSource", difference.found_source);
  object.Set("foundToken", difference.found_token);
  object.Set("precision", difference.precision);
  object.Set("factor", difference.factor);
  setNumbers(
      object,
      {{"row", difference.row}, {"firstByte", difference.first_byte}, {"endByte", difference.end_byte}});
  return object;
}

Napi::Value reportFor(Napi::Env env, const fusco_audit_report &report,
                      const std::vector<fusco_audit_difference> &differences) {
  Napi::Object object = Napi::Object::New(env);
  setNumbers(object, {{"rows", report.rows}, {"wrong", report.wrong}, {"reordered", report.reordered}});
  object.Set("largestError", report.largest_error);
  Napi::Object counts = Napi::Object::New(env);
  for (int kind = 0; kind < FUSCO_AUDIT_KINDS; kind++) {
    if (report.counts[kind] == 0) continue;
    setNumbers(counts, {{fusco_audit_kind_name(static_cast<fusco_audit_kind>(kind)), report.counts[kind]}});
  }
  object.Set("counts", counts);
  Napi::Array list = Napi::Array::New(env);
  for (uint32_t i = 0; i < report.listed; i++) list[i] = differenceFor(env, differences[i]);
  object.Set("differences", list);
  Napi::Array found = Napi::Array::New(env);
  for (uint32_t i = 0; const char *order = fusco_audit_order_name(i); i++) {
    if ((report.orders >> i & 1) != 0) found[found.Length()] = Napi::String::New(env, order);
  }
  object.Set("orders", found);
  return object;
}

// The most differences that a call lists.
constexpr uint64_t mostRoom = 1 << 20;

// Runs a call that lists differences.
template <class Call>
Napi::Value audited(const Fields &fields, const fusco_audit *audit, Call call,
                    fusco_status (*function)(fusco_audit *, const Call *, fusco_audit_report *,
                                             fusco_error *)) {
  std::vector<fusco_audit_difference> differences(fields.integer("room", mostRoom));
  call.rank = fields.get<uint32_t>("rank");
  call.differences = differences.data();
  call.difference_count = static_cast<uint32_t>(differences.size());
  auto report = fusco_sized<fusco_audit_report>();
  const Call *given = &call;
  run(fields.env(), function, const_cast<fusco_audit *>(audit), given, &report);
  return reportFor(fields.env(), report, differences);
}

}  // namespace

Audit::Audit(const Napi::CallbackInfo &info) : Handle(info) {
  const Napi::Env env = info.Env();
  const fusco_plan_file *file = PlanFile::handleOf(info[0]).get();
  const fusco_audit_layout layout = layoutOf(Fields(info, 1, Napi::Array::New(env)));
  const fusco_audit_layout *given = &layout;
  make(env, fusco_audit_create, file, given);
  auto described = fusco_sized<fusco_plan_file_info>();
  run(env, fusco_plan_file_describe, file, &described);
  ranks_ = described.options->ranks;
}

void Audit::setInput(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  Napi::Array keep = Napi::Array::New(env);
  const Fields fields(info, 0, keep);
  const std::vector<fusco_buffer> rows = fields.memories("rows", ranks_);
  std::vector<fusco_buffer> previous;
  if (fields.has("previous")) previous = fields.memories("previous", ranks_);
  auto input = fusco_sized<fusco_audit_input>();
  input.dtype = fields.choice<fusco_dtype>("dtype",
                                           {{"bytes", FUSCO_DTYPE_BYTES},
                                            {"f32", FUSCO_DTYPE_F32},
                                            {"f16", FUSCO_DTYPE_F16},
                                            {"bf16", FUSCO_DTYPE_BF16},
                                            {"fp8", FUSCO_DTYPE_FP8}},
                                           FUSCO_E_DTYPE);
  input.row_bytes = fields.get<uint64_t>("rowBytes");
  input.rows = rows.data();
  input.previous = previous.empty() ? nullptr : previous.data();
  const fusco_audit_input *given = &input;
  run(env, fusco_audit_set_input, open(env).get(), given);
  keep_ = Napi::Persistent(keep);
}

Napi::Value Audit::origins(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const auto rank = valueOf<uint32_t>(info[0], "rank");
  const auto rows = valueOf<uint32_t>(info[1], "rows");
  auto origins = Napi::Int32Array::New(env, size_t{rows} * 3);
  run(env, fusco_audit_origins, open(env).get(), rank, uint64_t{rows}, origins.Data(),
      uint64_t{origins.ByteLength()});
  return origins;
}

Napi::Value Audit::dispatch(const Napi::CallbackInfo &info) {
  const Fields fields(info, 0, Napi::Array::New(info.Env()));
  auto call = fusco_sized<fusco_audit_dispatch_call>();
  call.received = fields.memory("received");
  return audited(fields, open(info.Env()).get(), call, fusco_audit_dispatch);
}

Napi::Value Audit::combine(const Napi::CallbackInfo &info) {
  const Fields fields(info, 0, Napi::Array::New(info.Env()));
  auto call = fusco_sized<fusco_audit_combine_call>();
  call.combined = fields.memory("combined");
  if (fields.has("weights")) call.weights = fields.memory("weights");
  std::vector<fusco_buffer> outputs;
  if (fields.has("outputs")) outputs = fields.memories("outputs", ranks_);
  call.outputs = outputs.empty() ? nullptr : outputs.data();
  if (fields.has("order")) {
    const auto wanted = fields.get<std::string>("order");
    for (uint32_t i = 0; const char *order = fusco_audit_order_name(i); i++) {
      if (wanted == order) call.order = i + 1;
    }
    if (call.order == 0) refuse(info.Env(), FUSCO_E_OPTION, "there is no order of addition " + wanted);
  }
  return audited(fields, open(info.Env()).get(), call, fusco_audit_combine);
}

Napi::Value auditLayouts(const Napi::CallbackInfo &info) {
  Napi::Object layouts = Napi::Object::New(info.Env());
  for (uint32_t i = 0; const char *layout = fusco_audit_layout_name(i); i++) {
    auto found = fusco_sized<fusco_audit_layout>();
    run(info.Env(), fusco_audit_layout_find, layout, &found);
    layouts.Set(layout, layoutFor(info.Env(), found));
  }
  return layouts;
}

Napi::Value auditOrders(const Napi::CallbackInfo &info) {
  Napi::Array names = Napi::Array::New(info.Env());
  for (uint32_t i = 0; const char *order = fusco_audit_order_name(i); i++) {
    names[i] = Napi::String::New(info.Env(), order);
  }
  return names;
}

}  // namespace fusco_node
