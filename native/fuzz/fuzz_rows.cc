// Work on rows with any sizes and options: e4m3 rows and gating, forward and backward, into guarded memory.
//
//   u8 operation | u8 dtype | u8 buffer that is one byte short, 0: none | options | sizes | what is left
//   fills the sources

#include "input.hpp"

namespace {

using fuzz::accepted;
using fuzz::Input;
using fuzz::Memory;

constexpr uint8_t poison = 0xaa;
constexpr uint64_t maxBytes = uint64_t{1} << 18;

// As many bytes as are needed, or none where that is too much: then the call must be refused.
class Buffers {
 public:
  explicit Buffers(uint8_t shortened) : shortened_(shortened) {}

  fusco_buffer make(unsigned __int128 needed, const Input *source) {
    const bool isShort = ++made_ == shortened_ && needed > 0;
    if (needed > maxBytes || isShort) mustRefuse = true;
    const uint64_t bytes = needed > maxBytes ? 0 : static_cast<uint64_t>(needed) - (isShort ? 1 : 0);
    memories_.push_back(std::make_unique<Memory>(bytes, source == nullptr ? poison : 0));
    if (source != nullptr)
      memories_.back()->fill(*source);
    else
      outputs_.push_back(memories_.back().get());
    return memories_.back()->buffer();
  }

  bool outputsUntouched() const {
    for (const Memory *memory : outputs_) {
      if (!memory->holdsOnly(poison)) return false;
    }
    return true;
  }

  bool mustRefuse = false;

 private:
  uint8_t shortened_;
  uint8_t made_ = 0;
  std::vector<std::unique_ptr<Memory>> memories_;
  std::vector<Memory *> outputs_;
};

// Sizes beyond a few thousand are as good as 2^64 - 1 for finding a product that wraps.
uint64_t takeSize(Input &input) {
  const uint16_t size = input.take<uint16_t>();
  return size < 0xf000 ? size % 1024 : uint64_t{1} << (size & 63);
}

using Wide = unsigned __int128;

void fp8(Input &input, fusco_dtype dtype, Buffers &buffers, bool isQuantize) {
  fusco_fp8_call call = fusco_sized<fusco_fp8_call>();
  call.dtype = dtype;
  call.rows = takeSize(input);
  call.hidden = takeSize(input);
  const uint64_t element = dtype == FUSCO_DTYPE_F32 ? 4 : 2;
  const Wide elements = Wide{call.rows} * call.hidden;
  const Input *values = isQuantize ? &input : nullptr;
  const Input *codes = isQuantize ? nullptr : &input;
  call.values = buffers.make(elements * element, values);
  call.codes = buffers.make(elements, codes);
  call.scales = buffers.make(Wide{call.rows} * (call.hidden / 128 + (call.hidden % 128 != 0)) * 4, codes);
  fusco_error error{};
  const fusco_status status = isQuantize ? fusco_fp8_quantize(fuzz::context(), &call, &error)
                                         : fusco_fp8_dequantize(fuzz::context(), &call, &error);
  if (accepted(status, error))
    FUZZ_CHECK(!buffers.mustRefuse);
  else
    FUZZ_CHECK(buffers.outputsUntouched());
}

fusco_gate_options takeOptions(Input &input) {
  fusco_gate_options options{};
  options.experts = static_cast<uint32_t>(takeSize(input));
  options.topk = input.take<uint16_t>();
  options.groups = input.take<uint8_t>();
  options.group_topk = input.take<uint8_t>();
  const uint8_t flags = input.take<uint8_t>();
  options.score = (flags & 1) != 0 ? FUSCO_SCORE_SIGMOID : FUSCO_SCORE_SOFTMAX;
  options.group_score = (flags & 2) != 0 ? FUSCO_GROUP_TOP2 : FUSCO_GROUP_MAX;
  options.normalize = (flags & 4) != 0 ? 1 : 0;
  options.scale = input.take<float>();
  return options;
}

void gate(Input &input, Buffers &buffers) {
  fusco_gate_call call = fusco_sized<fusco_gate_call>();
  call.options = takeOptions(input);
  call.tokens = takeSize(input);
  const bool hasBias = (input.take<uint8_t>() & 1) != 0;
  const Wide scores = Wide{call.tokens} * call.options.experts * 4;
  const Wide entries = Wide{call.tokens} * call.options.topk * 4;
  call.logits = buffers.make(scores, &input);
  if (hasBias) call.bias = buffers.make(Wide{call.options.experts} * 4, &input);
  call.ids = buffers.make(entries, nullptr);
  call.weights = buffers.make(entries, nullptr);
  call.scores = buffers.make(scores, nullptr);
  fusco_error error{};
  if (!accepted(fusco_gate(fuzz::context(), &call, &error), error)) {
    FUZZ_CHECK(buffers.outputsUntouched());
    return;
  }
  FUZZ_CHECK(!buffers.mustRefuse);
  // Each token chose topk distinct experts.
  std::vector<uint8_t> chosen(call.options.experts);
  for (uint64_t token = 0; token < call.tokens; token++) {
    std::fill(chosen.begin(), chosen.end(), uint8_t{0});
    for (uint32_t k = 0; k < call.options.topk; k++) {
      int32_t id;
      std::memcpy(&id, static_cast<uint8_t *>(call.ids.data) + 4 * (token * call.options.topk + k), 4);
      FUZZ_CHECK(id >= 0 && static_cast<uint32_t>(id) < call.options.experts && chosen[id] == 0);
      chosen[id] = 1;
    }
  }
}

void gateBackward(Input &input, Buffers &buffers) {
  fusco_gate_backward_call call = fusco_sized<fusco_gate_backward_call>();
  call.options = takeOptions(input);
  call.tokens = takeSize(input);
  const Wide scores = Wide{call.tokens} * call.options.experts * 4;
  const Wide entries = Wide{call.tokens} * call.options.topk * 4;
  call.ids = buffers.make(entries, &input);
  // Ids as the file has them are nearly always out of range; half of the time they are brought into it.
  if ((input.take<uint8_t>() & 1) != 0 && call.options.experts > 0) {
    for (uint64_t at = 0; at + 4 <= call.ids.bytes; at += 4) {
      uint32_t id;
      std::memcpy(&id, static_cast<uint8_t *>(call.ids.data) + at, 4);
      id %= call.options.experts;
      std::memcpy(static_cast<uint8_t *>(call.ids.data) + at, &id, 4);
    }
  }
  call.scores = buffers.make(scores, &input);
  call.weights_gradient = buffers.make(entries, &input);
  call.logits_gradient = buffers.make(scores, nullptr);
  fusco_error error{};
  if (accepted(fusco_gate_backward(fuzz::context(), &call, &error), error))
    FUZZ_CHECK(!buffers.mustRefuse);
  else
    FUZZ_CHECK(buffers.outputsUntouched());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Input input(data, size);
  const uint8_t operation = input.take<uint8_t>() & 3;
  const auto dtype = static_cast<fusco_dtype>(input.take<uint8_t>() & 3);
  Buffers buffers(input.take<uint8_t>() % 6);
  if (operation == 0)
    gate(input, buffers);
  else if (operation == 1)
    gateBackward(input, buffers);
  else
    fp8(input, dtype, buffers, operation == 2);
  return 0;
}
