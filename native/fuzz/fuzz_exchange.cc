// Any bytes as the shards of a plan; a plan that is accepted is executed into guarded memory, in all four
// exchanges.
//
//   u8 ranks - 1 | u8 ranks a node | u8 strategy | u8 sums: partial, bit 0; sum, bit 1 | u8 dtype
//   u16 row bytes | u8 flags | u32 bytes of each shard | the shards one behind another | what is left
//   fills the sources

#include "input.hpp"

namespace {

using fuzz::accepted;
using fuzz::Input;
using fuzz::Memory;

constexpr uint8_t poison = 0xaa;
constexpr uint64_t maxBytes = uint64_t{1} << 22;

enum Flag : uint8_t { weighted = 1, perEntry = 2, scaled = 4, origins = 8, shortBuffer = 16, overlap = 32 };

struct Head {
  uint32_t ranks;
  fusco_plan_desc desc;
  fusco_dtype dtype;
  uint64_t rowBytes;
  uint8_t flags;
};

// Values that an enumeration does not have are kept out here: C++ code may not even load them. The library's
// own callers in C may hand them over, and test/test_refusals.c does.
Head readHead(Input &input) {
  Head head{};
  head.ranks = input.take<uint8_t>() % 8 + 1u;
  head.desc.ranks = head.ranks;
  head.desc.ranks_per_node = input.take<uint8_t>();
  head.desc.strategy = (input.take<uint8_t>() & 1) != 0 ? FUSCO_STRATEGY_HIER : FUSCO_STRATEGY_FLAT;
  const auto sums = input.take<uint8_t>();
  head.desc.partial = (sums & 1) != 0 ? FUSCO_PARTIAL_F32 : FUSCO_PARTIAL_PAYLOAD;
  head.desc.sum = (sums & 2) != 0 ? FUSCO_SUM_TOKEN : FUSCO_SUM_NODE;
  head.dtype = static_cast<fusco_dtype>(input.take<uint8_t>() & 3);
  head.rowBytes = input.take<uint16_t>();
  head.flags = input.take<uint8_t>();
  return head;
}

// One guarded memory for each rank.
struct PerRank {
  std::vector<Memory> memories;
  std::vector<fusco_buffer> buffers;

  void add(uint64_t bytes, uint8_t value) {
    memories.emplace_back(bytes, value);
    buffers.push_back(memories.back().buffer());
  }

  bool holdsOnly(uint8_t value) const {
    for (const Memory &memory : memories) {
      if (!memory.holdsOnly(value)) return false;
    }
    return true;
  }
};

class Execution {
 public:
  Execution(fusco_plan *plan, const Head &head, Input rest) : plan_(plan), head_(head) {
    const uint64_t topk = fusco_plan_topk(plan);
    for (uint32_t rank = 0; rank < head.ranks; rank++) {
      const uint64_t tokens = fusco_plan_tokens(plan, rank);
      const uint64_t rows = fusco_plan_recv_rows(plan, rank);
      from.add(tokens * head.rowBytes * ((head.flags & perEntry) != 0 ? topk : 1), 0);
      from.memories.back().fill(rest);
      received.add(rows * head.rowBytes, poison);
      home.add(tokens * head.rowBytes, poison);
      weights.add(tokens * topk * 4, 0);
      weights.memories.back().fill(rest);
      gradient.add(tokens * topk * 4, poison);
      rowsGradient.add(rows * head.rowBytes, poison);
      rowOrigins.add(rows * 12, poison);
    }
  }

  static bool fits(fusco_plan *plan, const Head &head) {
    uint64_t bytes = 0;
    for (uint32_t rank = 0; rank < head.ranks; rank++) {
      const uint64_t entries = uint64_t{fusco_plan_tokens(plan, rank)} * fusco_plan_topk(plan);
      bytes += (entries + 2 * uint64_t{fusco_plan_recv_rows(plan, rank)}) * (head.rowBytes + 12);
    }
    return bytes <= maxBytes;
  }

  void run() {
    spoil();
    if (dispatch()) checkReceived();
    // The way home reads rows that dispatch wrote, or poison where it was refused.
    combine();
    weightGradient();
    combineGradient();
  }

 private:
  // Makes one buffer too short or lets it overlap another, where the flags say so.
  void spoil() {
    spoilt_ = false;
    fusco_buffer &last = received.buffers.back();
    if ((head_.flags & shortBuffer) != 0 && last.bytes > 0) {
      last.bytes--;
      spoilt_ = true;
    } else if ((head_.flags & overlap) != 0 && last.bytes > 0 && from.buffers.back().bytes >= last.bytes) {
      last = from.buffers.back();
      spoilt_ = true;
    }
  }

  bool dispatch() {
    const bool hasScale = (head_.flags & scaled) != 0;
    fusco_payload payload = fusco_sized<fusco_payload>();
    payload.row_bytes = head_.rowBytes;
    payload.per = (head_.flags & perEntry) != 0 ? FUSCO_PER_ENTRY : FUSCO_PER_TOKEN;
    payload.dtype = head_.dtype;
    payload.from = from.buffers.data();
    payload.to = received.buffers.data();
    fusco_dispatch_call call = fusco_sized<fusco_dispatch_call>();
    call.payloads = &payload;
    call.payload_count = 1;
    call.origins = (head_.flags & origins) != 0 ? rowOrigins.buffers.data() : nullptr;
    call.scale = hasScale ? weights.buffers.data() : nullptr;
    fusco_error error{};
    const bool done = accepted(fusco_dispatch(plan_, &call, nullptr, &error), error);
    FUZZ_CHECK(!(done && spoilt_));
    // A refusal comes before the first byte.
    if (!done) FUZZ_CHECK(received.holdsOnly(poison) && rowOrigins.holdsOnly(poison));
    return done;
  }

  // Origins name each entry that was kept once, and say -1 in padding: nothing is left as it was.
  void checkReceived() {
    if ((head_.flags & origins) == 0) return;
    for (uint32_t rank = 0; rank < head_.ranks; rank++) {
      const uint8_t *at = rowOrigins.memories[rank].data();
      for (uint32_t row = 0; row < fusco_plan_recv_rows(plan_, rank); row++, at += 12) {
        int32_t origin[3];
        std::memcpy(origin, at, sizeof origin);
        if (origin[0] == -1) continue;
        FUZZ_CHECK(origin[0] >= 0 && static_cast<uint32_t>(origin[0]) < head_.ranks);
        FUZZ_CHECK(static_cast<uint32_t>(origin[1]) < fusco_plan_tokens(plan_, origin[0]));
        FUZZ_CHECK(static_cast<uint32_t>(origin[2]) < fusco_plan_topk(plan_));
      }
    }
  }

  void combine() {
    auto call = callOnRows<fusco_combine_call>();
    call.to = home.buffers.data();
    call.weights = (head_.flags & weighted) != 0 ? weights.buffers.data() : nullptr;
    run(fusco_combine, call, home);
  }

  void weightGradient() {
    auto call = callOnRows<fusco_weight_gradient_call>();
    call.output_gradient = home.buffers.data();
    call.to = gradient.buffers.data();
    run(fusco_weight_gradient, call, gradient);
  }

  void combineGradient() {
    auto call = callOnRows<fusco_combine_gradient_call>();
    call.output_gradient = home.buffers.data();
    call.weights = weights.buffers.data();
    call.to = rowsGradient.buffers.data();
    call.weights_gradient = gradient.buffers.data();
    call.origins = (head_.flags & origins) != 0 ? rowOrigins.buffers.data() : nullptr;
    run(fusco_combine_gradient, call, rowsGradient);
  }

  // A call that computes with received rows.
  template <class Call>
  Call callOnRows() const {
    Call call = fusco_sized<Call>();
    call.dtype = head_.dtype;
    call.row_bytes = head_.rowBytes;
    call.from = received.buffers.data();
    return call;
  }

  // A refusal leaves what the call writes as it was.
  template <class Function, class Call>
  void run(Function exchange, const Call &call, const PerRank &written) {
    fusco_error error{};
    if (!accepted(exchange(plan_, &call, nullptr, &error), error)) FUZZ_CHECK(written.holdsOnly(poison));
  }

  fusco_plan *plan_;
  const Head &head_;
  bool spoilt_ = false;
  PerRank from, received, home, weights, gradient, rowsGradient, rowOrigins;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Input input(data, size);
  Head head = readHead(input);
  std::vector<uint32_t> sizes;
  for (uint32_t rank = 0; rank < head.ranks; rank++) sizes.push_back(input.take<uint32_t>());
  std::vector<Memory> shards;
  std::vector<fusco_buffer> buffers;
  for (const uint32_t bytes : sizes) {
    const std::vector<uint8_t> shard = input.takeBytes(bytes);
    shards.emplace_back(shard.size());
    if (!shard.empty()) std::memcpy(shards.back().data(), shard.data(), shard.size());
    buffers.push_back(shards.back().buffer());
  }
  head.desc.shards = buffers.data();
  fusco_plan *plan = nullptr;
  fusco_error error{};
  if (!accepted(fusco_plan_create(fuzz::context(), &head.desc, &plan, &error), error)) {
    FUZZ_CHECK(plan == nullptr);
    return 0;
  }
  // The shards are not read after the upload.
  shards.clear();
  if (Execution::fits(plan, head)) Execution(plan, head, input).run();
  fusco_plan_destroy(plan);
  return 0;
}
