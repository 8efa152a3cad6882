#include "layouts.hpp"

#include <cstring>
#include <iterator>

#include "failure.hpp"
#include "plan_layout.h"

namespace fusco::audit {

namespace {

constexpr uint32_t mostPartials = 8;

// Short names for the table below.
constexpr auto entry = FUSCO_PER_ENTRY;
constexpr auto token = FUSCO_PER_TOKEN;
constexpr auto expert = FUSCO_AUDIT_BLOCKS_EXPERT;
constexpr auto source = FUSCO_AUDIT_BLOCKS_SOURCE;
constexpr auto one = FUSCO_AUDIT_BLOCKS_ONE;
constexpr auto sorted = FUSCO_AUDIT_ROWS_SORTED;
constexpr auto unordered = FUSCO_AUDIT_ROWS_ANY;
constexpr auto zero = FUSCO_AUDIT_FILLER_ZERO;
constexpr auto any = FUSCO_AUDIT_FILLER_ANY;
constexpr auto f32 = FUSCO_DTYPE_F32;
constexpr auto payload = FUSCO_DTYPE_BYTES;
constexpr uint64_t needed = 0;
constexpr uint64_t equal = FUSCO_AUDIT_SLOTS_EQUAL;
// Align: of the plan.
constexpr uint32_t plan = 0;

struct Named {
  const char *name;
  fusco_audit_layout layout;
};

constexpr uint32_t size = sizeof(fusco_audit_layout);

// docs/audit.md says which source defines each, and test/tools/audit/layouts.test.ts builds each again.
constexpr Named layouts[] = {
    {"fusco", {size, entry, expert, sorted, plan, zero, zero, needed, f32, 1}},
    {"once-per-rank", {size, token, source, sorted, 1, zero, zero, needed, f32, 1}},
    {"expert-slots", {size, entry, expert, unordered, 1, any, zero, equal, f32, 0}},
    {"rank-major", {size, token, source, sorted, 1, any, zero, equal, f32, 1}},
    {"deepep-v1", {size, token, source, sorted, 1, zero, any, needed, f32, 2}},
    {"deepep-v1-low-latency", {size, entry, expert, unordered, 1, any, zero, equal, f32, 0}},
    {"deepep-v2", {size, token, source, unordered, 1, zero, any, needed, f32, 2}},
    {"deepep-v2-hybrid", {size, token, one, unordered, 1, zero, any, needed, f32, 2}},
    {"deepep-v2-expanded", {size, entry, expert, unordered, plan, any, any, needed, f32, 2}},
    {"nccl-ep-flat", {size, token, one, unordered, 1, zero, any, needed, f32, 2}},
    {"nccl-ep-expert-major", {size, entry, expert, unordered, plan, any, any, needed, f32, 2}},
    {"nccl-ep-ll-expert-major", {size, entry, expert, unordered, 1, any, zero, equal, f32, 0}},
    {"nccl-ep-rank-major", {size, token, source, unordered, 1, any, zero, equal, f32, 1}},
    {"megatron-alltoall", {size, entry, expert, sorted, 1, zero, zero, needed, payload, 0}},
    {"megatron-allgather", {size, entry, expert, sorted, 1, zero, zero, needed, payload, 1}},
    {"pplx", {size, entry, expert, unordered, plan, any, any, needed, f32, 0}},
    {"pplx-batched", {size, entry, expert, unordered, 1, any, zero, equal, f32, 0}},
};

void checkName(const char *field, int value, int most) {
  if (value >= 0 && value <= most) return;
  throw Failure(FUSCO_E_OPTION, "the layout's %s is %d, which has no name", field, value);
}

}  // namespace

const char *layoutName(uint32_t index) { return index < std::size(layouts) ? layouts[index].name : nullptr; }

fusco_audit_layout findLayout(const char *name) {
  for (const Named &named : layouts) {
    if (std::strcmp(named.name, name) == 0) return named.layout;
  }
  throw Failure(FUSCO_E_OPTION, "layout %.40s is not known", name);
}

void checkLayout(const fusco_audit_layout &layout) {
  checkName("per", layout.per, FUSCO_PER_ENTRY);
  checkName("blocks", layout.blocks, one);
  checkName("order", layout.order, unordered);
  checkName("padding", layout.padding, any);
  checkName("tail", layout.tail, any);
  if (layout.per == token && layout.blocks == expert) {
    throw Failure(FUSCO_E_OPTION, "a layout with one row per token and rank has no blocks by expert");
  }
  if (layout.slots != needed && layout.align > 1) {
    throw Failure(FUSCO_E_OPTION, "a layout has slots or an align, not both");
  }
  // So that the first rows of blocks do not exceed 64 bits.
  if (layout.slots != equal && layout.slots > FUSCO_MAX_ROWS) {
    throw Failure(FUSCO_E_OPTION, "a layout has %llu slots > %d", layout.slots, FUSCO_MAX_ROWS)
        .limited(layout.slots, FUSCO_MAX_ROWS);
  }
  if (layout.slots == equal && layout.tail == any) {
    throw Failure(FUSCO_E_OPTION, "blocks that divide all rows equally leave no tail");
  }
  if (layout.accumulate != f32 && layout.accumulate != payload) {
    throw Failure(FUSCO_E_OPTION, "the layout accumulates in F32 or in the dtype of the rows (BYTES)");
  }
  if (layout.partials > mostPartials) {
    throw Failure(FUSCO_E_OPTION, "%u partial sums > %u", layout.partials, mostPartials)
        .limited(layout.partials, mostPartials);
  }
}

}  // namespace fusco::audit
