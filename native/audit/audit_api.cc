// The C interface of audits.
#include <cstring>

#include "audit.hpp"
#include "guard.hpp"
#include "ids_from.hpp"
#include "layouts.hpp"
#include "orders.hpp"
#include "structs.hpp"

using fusco::Failure;
using fusco::need;
using fusco::audit::Audit;
using fusco::audit::Entries;

struct fusco_audit {
  Audit audit;
};

namespace {

constexpr const char *kinds[FUSCO_AUDIT_KINDS] = {
    "other-token", "zeros", "stale",     "partial",      "rounding",   "nan",        "values", "padding",
    "missing",     "extra", "duplicate", "term-missing", "term-twice", "unweighted", "scaled"};

}  // namespace

extern "C" {

const char *fusco_audit_layout_name(uint32_t index) { return fusco::audit::layoutName(index); }

fusco_status fusco_audit_layout_find(const char *name, fusco_audit_layout *layout, fusco_error *error) {
  return fusco::guarded(error, [&] {
    need(layout, "layout");
    fusco::structTo(layout, fusco::audit::findLayout(&need(name, "name")), "fusco_audit_layout");
  });
}

fusco_status fusco_audit_create(const fusco_plan_file *plan, const fusco_audit_layout *layout,
                                fusco_audit **audit, fusco_error *error) {
  return fusco::guarded(error, [&] {
    need(audit, "audit");
    auto info = fusco_sized<fusco_plan_file_info>();
    fusco_error failed{};
    if (fusco_plan_file_describe(&need(plan, "plan"), &info, &failed) != FUSCO_OK) {
      throw Failure(failed.status, "%s", failed.message);
    }
    const auto given = fusco::structFrom(layout, "fusco_audit_layout");
    *audit = new fusco_audit{{Entries(*info.options, info.shards), given}};
  });
}

fusco_status fusco_audit_create_from_ids(const fusco_plan_options *options, const fusco_ids *ids,
                                         const fusco_audit_layout *layout, fusco_audit **audit,
                                         fusco_error *error) {
  return fusco::guarded(error, [&] {
    need(audit, "audit");
    const auto wanted = fusco::structFrom(options, "fusco_plan_options");
    const auto given = fusco::structFrom(layout, "fusco_audit_layout");
    // The ranks are checked before their ids are read.
    const uint32_t ranks = fusco::planning::makeSettledSpec(wanted).ranks;
    *audit = new fusco_audit{{Entries(wanted, fusco::planning::idsFrom(ids, ranks)), given}};
  });
}

void fusco_audit_destroy(fusco_audit *audit) { delete audit; }

fusco_status fusco_audit_rows(const fusco_audit *audit, uint32_t rank, uint64_t *rows, fusco_error *error) {
  return fusco::guarded(error, [&] { need(rows, "rows") = need(audit, "audit").audit.origins(rank).end; });
}

fusco_status fusco_audit_origins(const fusco_audit *audit, uint32_t rank, uint64_t rows, int32_t *origins,
                                 uint64_t bytes, fusco_error *error) {
  return fusco::guarded(error, [&] {
    const Audit &from = need(audit, "audit").audit;
    const auto found = from.origins(rank, rows);
    const auto &layout = from.layout();
    if (rows < found.end || (rows > found.end && layout.tail == FUSCO_AUDIT_FILLER_ZERO)) {
      throw Failure(FUSCO_E_BUFFER, "rank %u: the layout has %llu rows, not %llu", rank, found.end, rows)
          .atRank(rank)
          .limited(rows, found.end);
    }
    if (bytes / fusco::originBytes < rows) {
      throw Failure(FUSCO_E_BUFFER, "origins have %llu bytes < %llu rows x 12", bytes, rows);
    }
    if (rows == 0) return;
    int32_t *to = &need(origins, "origins");
    const auto fill = [&](uint64_t begin, uint64_t end, fusco_audit_filler filler) {
      const int32_t word = filler == FUSCO_AUDIT_FILLER_ZERO ? FUSCO_AUDIT_PADDING : FUSCO_AUDIT_UNSPECIFIED;
      for (uint64_t i = 3 * begin; i < 3 * end; i++) to[i] = i % 3 == 0 ? word : -1;
    };
    for (const auto &block : found.blocks) {
      if (block.count > 0)
        std::memcpy(to + 3 * block.begin, found.of(block), block.count * fusco::originBytes);
      fill(block.begin + block.count, block.begin + block.slots, layout.padding);
    }
    fill(found.end, rows, layout.tail);
  });
}

fusco_status fusco_audit_set_input(fusco_audit *audit, const fusco_audit_input *input, fusco_error *error) {
  return fusco::guarded(error, [&] {
    Audit &to = need(audit, "audit").audit;
    const auto given = fusco::structFrom(input, "fusco_audit_input");
    const std::lock_guard lock(to.mutex());
    to.setInput(given);
  });
}

const char *fusco_audit_kind_name(fusco_audit_kind kind) {
  return kind >= 0 && kind < FUSCO_AUDIT_KINDS ? kinds[kind] : "";
}

const char *fusco_audit_order_name(uint32_t index) { return fusco::audit::orderName(index); }

fusco_status fusco_audit_dispatch(fusco_audit *audit, const fusco_audit_dispatch_call *call,
                                  fusco_audit_report *report, fusco_error *error) {
  return fusco::guarded(error, [&] {
    Audit &of = need(audit, "audit").audit;
    const auto given = fusco::structFrom(call, "fusco_audit_dispatch_call");
    need(report, "report");
    const std::lock_guard lock(of.mutex());
    fusco::structTo(report, fusco::audit::auditDispatch(of, given), "fusco_audit_report");
  });
}

fusco_status fusco_audit_combine(fusco_audit *audit, const fusco_audit_combine_call *call,
                                 fusco_audit_report *report, fusco_error *error) {
  return fusco::guarded(error, [&] {
    Audit &of = need(audit, "audit").audit;
    const auto given = fusco::structFrom(call, "fusco_audit_combine_call");
    need(report, "report");
    const std::lock_guard lock(of.mutex());
    fusco::structTo(report, fusco::audit::auditCombine(of, given), "fusco_audit_report");
  });
}

}  // extern "C"
