/* Audits through the C interface: the routing of plans.h, with what each rank must have received written by
 * hand. */
#include <math.h>
#include <string.h>

#include "fusco_audit.h"
#include "plans.h"

enum { HIDDEN = 4, ROW_BYTES = HIDDEN * sizeof(float) };

static const int32_t IDS[RANKS][2 * TOPK] = {{0, 1, 1, -1}, {1, 0, 0, 0}};
static const float INPUT[RANKS][2][HIDDEN] = {{{10, 11, 12, 13}, {20, 21, 22, 23}}, {{30, 31, 32, 33}}};
static const float BEFORE[RANKS][2][HIDDEN] = {{{-1, -2, -3, -4}, {-5, -6, -7, -8}}, {{-9, -8, -7, -6}}};

static fusco_audit_layout layout_of(const char *name) {
  fusco_audit_layout layout = {.struct_size = sizeof layout};
  CHECK(fusco_audit_layout_find(name, &layout, NULL) == FUSCO_OK);
  return layout;
}

static fusco_audit *audit_of(const fusco_audit_layout *layout) {
  const fusco_plan_options options = {
      .struct_size = sizeof options, .experts = 2, .ranks = RANKS, .topk = TOPK, .align = 4};
  fusco_ids ids[RANKS];
  for (int rank = 0; rank < RANKS; rank++) {
    const fusco_ids table = {.struct_size = sizeof table,
                             .dtype = FUSCO_ID_I32,
                             .tokens = TOKENS[rank],
                             .topk = TOPK,
                             .data = IDS[rank]};
    ids[rank] = table;
  }
  fusco_audit *audit = NULL;
  CHECK(fusco_audit_create_from_ids(&options, ids, layout, &audit, NULL) == FUSCO_OK);
  return audit;
}

static fusco_audit *audit_with_input(const char *name) {
  const fusco_audit_layout layout = layout_of(name);
  fusco_audit *audit = audit_of(&layout);
  static fusco_buffer rows[RANKS], previous[RANKS];
  for (int rank = 0; rank < RANKS; rank++) {
    rows[rank].data = (void *)INPUT[rank];
    previous[rank].data = (void *)BEFORE[rank];
    rows[rank].bytes = previous[rank].bytes = TOKENS[rank] * ROW_BYTES;
  }
  const fusco_audit_input input = {.struct_size = sizeof input,
                                   .dtype = FUSCO_DTYPE_F32,
                                   .row_bytes = ROW_BYTES,
                                   .rows = rows,
                                   .previous = previous};
  CHECK(fusco_audit_set_input(audit, &input, NULL) == FUSCO_OK);
  return audit;
}

static void expect_origins(const char *name, uint32_t rank, uint64_t rows, const int32_t (*expected)[3]) {
  const fusco_audit_layout layout = layout_of(name);
  fusco_audit *audit = audit_of(&layout);
  int32_t origins[8][3];
  CHECK(fusco_audit_origins(audit, rank, rows, origins[0], sizeof origins, NULL) == FUSCO_OK);
  CHECK(memcmp(origins, expected, rows * sizeof *expected) == 0);
  fusco_audit_destroy(audit);
}

static void layouts_expand_to_origins(void) {
  const int32_t fusco0[][3] = {{0, 0, 0}, {1, 0, 1}, {-1, -1, -1}, {-1, -1, -1}};
  const int32_t fusco1[][3] = {{0, 0, 1}, {0, 1, 0}, {1, 0, 0}, {-1, -1, -1}};
  expect_origins("fusco", 0, 4, fusco0);
  expect_origins("fusco", 1, 4, fusco1);
  const int32_t once[][3] = {{0, 0, -1}, {0, 1, -1}, {1, 0, -1}};
  expect_origins("once-per-rank", 1, 3, once);
  const int32_t major[][3] = {{0, 0, -1}, {-2, -1, -1}, {1, 0, -1}, {-2, -1, -1}};
  expect_origins("rank-major", 0, 4, major);
  const int32_t tail[][3] = {{0, 0, -1}, {1, 0, -1}, {-2, -1, -1}};
  expect_origins("deepep-v1", 0, 3, tail);
  const int32_t slots[][3] = {{0, 0, 1}, {0, 1, 0}, {1, 0, 0}, {-2, -1, -1}, {-2, -1, -1}};
  expect_origins("expert-slots", 1, 5, slots);
}

static void sizes_follow_from_the_layout(void) {
  fusco_audit_layout layout = layout_of("fusco");
  layout.align = 1;
  layout.slots = 2;
  fusco_audit *audit = audit_of(&layout);
  uint64_t rows = 0;
  fusco_error error;
  CHECK(fusco_audit_rows(audit, 0, &rows, &error) == FUSCO_OK && rows == 2);
  CHECK(fusco_audit_rows(audit, 1, &rows, &error) == FUSCO_E_LIMIT && error.value == 3 && error.limit == 2);
  CHECK(fusco_audit_rows(audit, RANKS, &rows, &error) == FUSCO_E_OPTION);
  fusco_audit_destroy(audit);
  layout = layout_of("rank-major");
  audit = audit_of(&layout);
  CHECK(fusco_audit_rows(audit, 1, &rows, &error) == FUSCO_OK && rows == 4);
  int32_t origins[3 * 8];
  CHECK(fusco_audit_origins(audit, 1, 3, origins, sizeof origins, &error) == FUSCO_E_BUFFER);
  fusco_audit_destroy(audit);
}

static fusco_audit_report audit_rows(fusco_audit *audit, uint32_t rank, float (*rows)[HIDDEN], uint64_t count,
                                     fusco_audit_difference *first) {
  const fusco_audit_dispatch_call call = {.struct_size = sizeof call,
                                          .rank = rank,
                                          .received = {rows, count * ROW_BYTES},
                                          .differences = first,
                                          .difference_count = 1};
  fusco_audit_report report = {.struct_size = sizeof report};
  CHECK(fusco_audit_dispatch(audit, &call, &report, NULL) == FUSCO_OK);
  return report;
}

static void wrong_rows_are_named(void) {
  fusco_audit *audit = audit_with_input("fusco");
  const float right[4][HIDDEN] = {{10, 11, 12, 13}, {20, 21, 22, 23}, {30, 31, 32, 33}};
  float rows[4][HIDDEN];
  fusco_audit_difference first;
  memcpy(rows, right, sizeof rows);
  fusco_audit_report report = audit_rows(audit, 1, rows, 4, &first);
  CHECK(report.rows == 4 && report.wrong == 0 && report.listed == 0);

  memcpy(rows[1], INPUT[1][0], ROW_BYTES);
  report = audit_rows(audit, 1, rows, 4, &first);
  CHECK(report.wrong == 1 && report.counts[FUSCO_AUDIT_OTHER_TOKEN] == 1 && report.listed == 1);
  CHECK(first.row == 1 && first.source == 0 && first.token == 1 && first.k == 0);
  CHECK(first.found == FUSCO_AUDIT_FOUND_TOKEN && first.found_source == 1 && first.found_token == 0);

  memcpy(rows, right, sizeof rows);
  memcpy(rows[2], BEFORE[0][1], ROW_BYTES);
  report = audit_rows(audit, 1, rows, 4, &first);
  CHECK(report.counts[FUSCO_AUDIT_STALE] == 1 && first.row == 2 && first.source == 1);
  CHECK(first.found == FUSCO_AUDIT_FOUND_PREVIOUS && first.found_source == 0 && first.found_token == 1);

  memcpy(rows, right, sizeof rows);
  memset(rows[0] + 2, 0, 2 * sizeof(float));
  report = audit_rows(audit, 1, rows, 4, &first);
  CHECK(report.counts[FUSCO_AUDIT_PARTIAL] == 1 && first.found == FUSCO_AUDIT_FOUND_ZEROS);
  CHECK(first.first_byte >= 8 && first.end_byte == ROW_BYTES);

  memcpy(rows, right, sizeof rows);
  rows[3][0] = 1;
  report = audit_rows(audit, 1, rows, 4, &first);
  CHECK(report.counts[FUSCO_AUDIT_PADDING_DIRTY] == 1 && first.row == 3 && first.source == -1);

  report = audit_rows(audit, 1, rows, 2, &first);
  CHECK(report.counts[FUSCO_AUDIT_MISSING] == 1 && first.found == FUSCO_AUDIT_FOUND_NOTHING);
  fusco_audit_destroy(audit);
}

static fusco_audit_report audit_combined(fusco_audit *audit, float (*rows)[HIDDEN], uint32_t order,
                                         fusco_audit_difference *first) {
  static const float weights[2][TOPK] = {{0.25f, 0.5f}, {0.125f, 0}};
  const fusco_audit_combine_call call = {.struct_size = sizeof call,
                                         .rank = 0,
                                         .combined = {rows, 2 * ROW_BYTES},
                                         .weights = {(void *)weights, sizeof weights},
                                         .order = order,
                                         .differences = first,
                                         .difference_count = 1};
  fusco_audit_report report = {.struct_size = sizeof report};
  CHECK(fusco_audit_combine(audit, &call, &report, NULL) == FUSCO_OK);
  return report;
}

static void sums_are_bounded(void) {
  fusco_audit *audit = audit_with_input("fusco");
  float rows[2][HIDDEN];
  for (int i = 0; i < HIDDEN; i++) {
    rows[0][i] = 0.75f * INPUT[0][0][i];
    rows[1][i] = 0.125f * INPUT[0][1][i];
  }
  fusco_audit_difference first;
  fusco_audit_report report = audit_combined(audit, rows, 1, &first);
  CHECK(report.rows == 2 && report.wrong == 0 && (report.orders & 1) == 1);
  /* One unit in the last place is within the bound, and has other bits than every order. */
  const float exact = rows[0][3];
  rows[0][3] = nextafterf(exact, 100);
  report = audit_combined(audit, rows, 0, &first);
  CHECK(report.wrong == 0 && report.orders == 0 && report.largest_error > 0 && report.largest_error <= 1);
  report = audit_combined(audit, rows, 1, &first);
  CHECK(report.wrong == 1 && report.reordered == 1 && first.kind == FUSCO_AUDIT_ROUNDING);
  rows[0][3] = exact * 1.0001f;
  report = audit_combined(audit, rows, 0, &first);
  CHECK(report.wrong == 1 && first.token == 0 && first.first_byte == 12 && first.end_byte == 16);
  for (int i = 0; i < HIDDEN; i++) rows[0][i] = 0.25f * INPUT[0][0][i];
  report = audit_combined(audit, rows, 0, &first);
  CHECK(report.counts[FUSCO_AUDIT_TERM_MISSING] == 1 && first.k == 1);
  for (int i = 0; i < HIDDEN; i++) rows[0][i] = 2 * INPUT[0][0][i];
  report = audit_combined(audit, rows, 0, &first);
  CHECK(report.counts[FUSCO_AUDIT_UNWEIGHTED] == 1);
  fusco_audit_destroy(audit);
}

static void bad_arguments_are_refused(void) {
  fusco_error error;
  fusco_audit_layout layout = layout_of("fusco");
  CHECK(fusco_audit_layout_find("other", &layout, &error) == FUSCO_E_OPTION);
  CHECK(fusco_audit_layout_find(NULL, &layout, &error) == FUSCO_E_OPTION);
  fusco_audit *audit = NULL;
  CHECK(fusco_audit_create(NULL, &layout, &audit, &error) == FUSCO_E_OPTION && audit == NULL);
  audit = audit_of(&layout);
  const fusco_audit_dispatch_call call = {.struct_size = sizeof call};
  fusco_audit_report report = {.struct_size = sizeof report};
  CHECK(fusco_audit_dispatch(audit, &call, &report, &error) == FUSCO_E_OPTION);
  CHECK(strcmp(error.message, "no input was set") == 0);
  fusco_buffer rows[RANKS] = {{(void *)INPUT[0], ROW_BYTES}, {(void *)INPUT[1], ROW_BYTES}};
  fusco_audit_input input = {.struct_size = sizeof input, .row_bytes = ROW_BYTES, .rows = rows};
  CHECK(fusco_audit_set_input(audit, &input, &error) == FUSCO_E_BUFFER && error.rank == 0);
  input.row_bytes = 0;
  CHECK(fusco_audit_set_input(audit, &input, &error) == FUSCO_E_OPTION);
  input.row_bytes = 3;
  input.dtype = FUSCO_DTYPE_BF16;
  CHECK(fusco_audit_set_input(audit, &input, &error) == FUSCO_E_DTYPE);
  fusco_audit_destroy(audit);
  /* A caller of an older version states a smaller size, and one that states none is refused. */
  struct {
    fusco_audit_layout layout;
    uint64_t later;
  } newer = {.layout = layout};
  newer.layout.struct_size = sizeof newer;
  audit = audit_of(&newer.layout);
  fusco_audit_destroy(audit);
  newer.layout.struct_size = 0;
  CHECK(fusco_audit_layout_find("fusco", &newer.layout, &error) == FUSCO_E_OPTION);
  layout.slots = (uint64_t)INT32_MAX + 1;
  const fusco_plan_options options = {.struct_size = sizeof options, .experts = 2, .ranks = 1, .topk = TOPK};
  const fusco_ids ids = {.struct_size = sizeof ids, .tokens = 2, .topk = TOPK, .data = IDS[0]};
  audit = NULL;
  CHECK(fusco_audit_create_from_ids(&options, &ids, &layout, &audit, &error) == FUSCO_E_OPTION);
  CHECK(audit == NULL && error.has_limit && error.limit == INT32_MAX);
  layout.slots = 0;
  layout.per = FUSCO_PER_TOKEN;
  CHECK(fusco_audit_create_from_ids(&options, &ids, &layout, &audit, &error) == FUSCO_E_OPTION);
  CHECK(audit == NULL);
  CHECK(strcmp(fusco_audit_kind_name(FUSCO_AUDIT_SCALED), "scaled") == 0);
  CHECK(strcmp(fusco_audit_kind_name((fusco_audit_kind)99), "") == 0);
  CHECK(strcmp(fusco_audit_order_name(0), "k") == 0 && fusco_audit_order_name(1000) == NULL);
  fusco_audit_destroy(NULL);
}

int main(void) {
  layouts_expand_to_origins();
  sizes_follow_from_the_layout();
  wrong_rows_are_named();
  sums_are_bounded();
  bad_arguments_are_refused();
  return 0;
}
