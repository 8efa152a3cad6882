/* What the library refuses: broken shards, whatever their bytes, and buffers that do not fit. */

#include <string.h>

#include "plan_layout.h"
#include "plans.h"

static fusco_status upload_fields(fusco_context *context, const shard_fields fields[RANKS],
                                  fusco_error *error) {
  fusco_buffer shards[RANKS] = {make_shard(&fields[0]), make_shard(&fields[1])};
  fusco_plan *plan = NULL;
  const fusco_status status = upload(context, shards, &plan, error);
  fusco_plan_destroy(plan);
  free(shards[0].data);
  free(shards[1].data);
  return status;
}

static void refuses_broken_entries(fusco_context *context) {
  shard_fields fields[RANKS];
  fusco_error error;

  plan_fields(fields);
  fields[1].slot[0] = 3; /* padding */
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_SEGMENT_BOUNDS);
  CHECK(error.rank == 1 && error.has_limit && error.value == 3 && error.limit == 3);
  CHECK(strcmp(error.path, "/ranks/1/entries/0") == 0);
  CHECK(strcmp(error.message, "entry 0 of rank 1, instance 1 slot 3, leaves its block") == 0);

  plan_fields(fields);
  fields[1].slot[0] = 1; /* also written by rank 0 token 1 */
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_ENTRY);

  plan_fields(fields);
  fields[0].slot[0] = 0x7fffffff;
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_SEGMENT_BOUNDS);

  plan_fields(fields);
  fields[0].instance[0] = 2;
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_SEGMENT_BOUNDS);

  plan_fields(fields);
  fields[0].slot[3] = -3;
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_ENTRY);

  plan_fields(fields);
  fields[0].slot[0] = FUSCO_SLOT_MASKED; /* but its instance says kept */
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_ENTRY);
}

static void refuses_broken_tables(fusco_context *context) {
  shard_fields fields[RANKS];
  fusco_error error;

  plan_fields(fields);
  fields[0].expert_rows[0] = 5;
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_SEGMENT_BOUNDS);

  plan_fields(fields);
  fields[1].expert_rows[0] = 4; /* a row that nobody writes */
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_ENTRY);

  plan_fields(fields);
  fields[1].expert_offset[1] = 5;
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_SHARD_HEAD);

  plan_fields(fields);
  fields[1].first_instance = 0;
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_SHARD_HEAD);

  plan_fields(fields);
  fields[0].recv_rows = 0xffffffffu;
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_LIMIT);

  plan_fields(fields);
  fields[1].rank = 0;
  CHECK(upload_fields(context, fields, &error) == FUSCO_E_RANKS && error.rank == 1);
}

/* No byte of a shard may make the upload or an exchange of the uploaded plan leave its memory. */
static void survives_any_bytes(fusco_context *context) {
  shard_fields fields[RANKS];
  plan_fields(fields);
  fusco_buffer shards[RANKS] = {make_shard(&fields[0]), make_shard(&fields[1])};
  uint8_t *bytes = shards[0].data;
  const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
  int refused = 0;
  for (uint64_t at = 0; at < shards[0].bytes; at++) {
    const uint8_t before = bytes[at];
    for (size_t v = 0; v < sizeof values; v++) {
      bytes[at] = values[v];
      fusco_plan *plan = NULL;
      fusco_error error;
      if (upload(context, shards, &plan, &error) != FUSCO_OK) {
        CHECK(plan == NULL && error.message[0] != '\0');
        refused++;
      }
      fusco_plan_destroy(plan);
    }
    bytes[at] = before;
  }
  /* 12 words, 24 section entries and 4 sections matter; gaps and the words of other stages do not. */
  CHECK(refused > 1000);
  for (uint64_t size = 0; size < shards[0].bytes; size++) {
    const fusco_buffer cut[RANKS] = {{bytes, size}, shards[1]};
    fusco_plan *plan = NULL;
    CHECK(upload(context, cut, &plan, NULL) == FUSCO_E_SHARD_LAYOUT);
  }
  free(shards[0].data);
  free(shards[1].data);
}

static void refuses_other_strategies(fusco_context *context) {
  const fusco_buffer none[RANKS] = {{NULL, 0}, {NULL, 0}};
  fusco_plan_desc desc = {.struct_size = sizeof(fusco_plan_desc),
                          .ranks = RANKS,
                          .ranks_per_node = 1,
                          .strategy = (fusco_strategy)7,
                          .shards = none};
  fusco_plan *plan = NULL;
  fusco_error error;
  CHECK(fusco_plan_create(context, &desc, &plan, &error) == FUSCO_E_BACKEND);
  desc.strategy = FUSCO_STRATEGY_HIER;
  desc.partial = (fusco_partial)7;
  CHECK(fusco_plan_create(context, &desc, &plan, &error) == FUSCO_E_OPTION);
  desc.partial = FUSCO_PARTIAL_F32;
  desc.sum = (fusco_sum)7;
  CHECK(fusco_plan_create(context, &desc, &plan, &error) == FUSCO_E_OPTION);
  desc.strategy = FUSCO_STRATEGY_FLAT;
  CHECK(fusco_plan_create(context, &desc, &plan, &error) == FUSCO_E_SHARD_LAYOUT);
  desc.ranks = 0;
  CHECK(fusco_plan_create(context, &desc, &plan, &error) == FUSCO_E_RANKS);
  CHECK(fusco_plan_create(NULL, &desc, &plan, &error) == FUSCO_E_OPTION);
}

static void refuses_buffers(fusco_context *context) {
  shard_fields fields[RANKS];
  plan_fields(fields);
  fusco_buffer shards[RANKS] = {make_shard(&fields[0]), make_shard(&fields[1])};
  fusco_plan *plan = NULL;
  CHECK(upload(context, shards, &plan, NULL) == FUSCO_OK);
  free(shards[0].data);
  free(shards[1].data);

  uint8_t memory[64];
  memset(memory, 0x55, sizeof memory);
  fusco_buffer from[RANKS] = {{memory, 8}, {memory + 8, 4}};
  fusco_buffer to[RANKS] = {{memory + 16, 16}, {memory + 32, 16}};
  fusco_payload payload = {.struct_size = sizeof(fusco_payload), .row_bytes = 4, .from = from, .to = to};
  const fusco_dispatch_call call = {
      .struct_size = sizeof(fusco_dispatch_call), .payloads = &payload, .payload_count = 1};
  fusco_error error;

  to[1].bytes = 15;
  CHECK(fusco_dispatch(plan, &call, NULL, &error) == FUSCO_E_BUFFER);
  CHECK(strcmp(error.message, "payload 0: to of rank 1 has 15 bytes, 16 are needed") == 0);
  CHECK(error.rank == 1 && error.value == 15 && error.limit == 16);
  to[1].bytes = 16;

  to[1].data = memory + 31;
  CHECK(fusco_dispatch(plan, &call, NULL, &error) == FUSCO_E_BUFFER);
  CHECK(strcmp(error.message, "payload 0: to of rank 1 overlaps payload 0: to of rank 0") == 0);
  to[1].data = memory + 7;
  CHECK(fusco_dispatch(plan, &call, NULL, &error) == FUSCO_E_BUFFER);
  to[1].data = NULL;
  CHECK(fusco_dispatch(plan, &call, NULL, &error) == FUSCO_E_BUFFER);
  to[1].data = memory + 32;

  payload.row_bytes = 0;
  CHECK(fusco_dispatch(plan, &call, NULL, &error) == FUSCO_E_OPTION);
  for (size_t i = 0; i < sizeof memory; i++) CHECK(memory[i] == 0x55);

  /* Values that no enumeration has. */
  payload.row_bytes = 4;
  payload.per = (fusco_per)7;
  CHECK(fusco_dispatch(plan, &call, NULL, &error) == FUSCO_E_OPTION);
  payload.per = FUSCO_PER_TOKEN;
  payload.dtype = (fusco_dtype)9;
  const fusco_dispatch_call scaled = {
      .struct_size = sizeof(fusco_dispatch_call), .payloads = &payload, .payload_count = 1, .scale = from};
  CHECK(fusco_dispatch(plan, &scaled, NULL, &error) == FUSCO_E_DTYPE);
  const fusco_combine_call strange = {.struct_size = sizeof(fusco_combine_call),
                                      .dtype = (fusco_dtype)-1,
                                      .row_bytes = 4,
                                      .from = to,
                                      .to = from};
  CHECK(fusco_combine(plan, &strange, NULL, &error) == FUSCO_E_DTYPE);
  for (size_t i = 0; i < sizeof memory; i++) CHECK(memory[i] == 0x55);

  fusco_combine_call combine = {.struct_size = sizeof(fusco_combine_call),
                                .dtype = FUSCO_DTYPE_BYTES,
                                .row_bytes = 4,
                                .from = to,
                                .to = from};
  CHECK(fusco_combine(plan, &combine, NULL, &error) == FUSCO_E_DTYPE);
  combine.dtype = FUSCO_DTYPE_F32;
  combine.row_bytes = 3;
  CHECK(fusco_combine(plan, &combine, NULL, &error) == FUSCO_E_DTYPE);
  CHECK(fusco_combine(NULL, &combine, NULL, &error) == FUSCO_E_OPTION);
  fusco_plan_destroy(plan);
}

/* Row work: values that no enumeration has, products that wrap, and buffers one byte short. */
static void refuses_row_work(fusco_context *context) {
  float floats[16] = {0};
  int32_t ids[4] = {0};
  uint8_t codes[16] = {0};
  fusco_error error;

  fusco_fp8_call fp8 = {.struct_size = sizeof(fusco_fp8_call),
                        .dtype = FUSCO_DTYPE_F32,
                        .rows = 2,
                        .hidden = 4,
                        .values = {floats, 32},
                        .codes = {codes, 8},
                        .scales = {floats + 8, 8}};
  CHECK(fusco_fp8_quantize(context, &fp8, &error) == FUSCO_OK);
  fp8.scales.bytes = 7;
  CHECK(fusco_fp8_quantize(context, &fp8, &error) == FUSCO_E_BUFFER && error.limit == 8);
  fp8.scales.bytes = 8;
  fp8.dtype = (fusco_dtype)9;
  CHECK(fusco_fp8_dequantize(context, &fp8, &error) == FUSCO_E_DTYPE);
  /* 2^40 rows of 2^24 bytes are 2^64 bytes: a product of 64 bits would be none. */
  fp8.dtype = FUSCO_DTYPE_F32;
  fp8.rows = (uint64_t)1 << 40;
  fp8.hidden = (uint64_t)1 << 22;
  fp8.codes.bytes = UINT64_MAX;
  fp8.scales.bytes = UINT64_MAX;
  CHECK(fusco_fp8_quantize(context, &fp8, &error) == FUSCO_E_OPTION);

  fusco_gate_call gate = {
      .struct_size = sizeof(fusco_gate_call),
      .options = {.experts = 4, .topk = 2, .groups = 2, .group_topk = 1, .normalize = 1, .scale = 1.0f},
      .tokens = 1,
      .logits = {floats, 16},
      .ids = {ids, 8},
      .weights = {floats + 4, 8},
      .scores = {floats + 8, 16}};
  CHECK(fusco_gate(context, &gate, &error) == FUSCO_OK);
  gate.options.score = (fusco_score)7;
  CHECK(fusco_gate(context, &gate, &error) == FUSCO_E_OPTION);
  gate.options.score = FUSCO_SCORE_SIGMOID;
  gate.options.group_score = (fusco_group_score)-1;
  CHECK(fusco_gate(context, &gate, &error) == FUSCO_E_OPTION);
  gate.options.group_score = FUSCO_GROUP_TOP2;
  gate.tokens = (uint64_t)1 << 62;
  CHECK(fusco_gate(context, &gate, &error) == FUSCO_E_OPTION);

  const fusco_context_options strange = {.struct_size = sizeof(fusco_context_options),
                                         .kernels = (fusco_kernels)5};
  fusco_context *other = NULL;
  CHECK(fusco_context_create(&strange, &other, &error) == FUSCO_E_OPTION && other == NULL);
}

int main(void) {
  fusco_context *context = NULL;
  const fusco_context_options too_many = {.struct_size = sizeof(fusco_context_options), .threads = 1025};
  CHECK(fusco_context_create(&too_many, &context, NULL) == FUSCO_E_OPTION && context == NULL);
  CHECK(strcmp(fusco_status_name(FUSCO_E_BUFFER), "E_BUFFER") == 0);
  CHECK(fusco_context_create(NULL, &context, NULL) == FUSCO_OK);
  refuses_broken_entries(context);
  refuses_broken_tables(context);
  survives_any_bytes(context);
  refuses_other_strategies(context);
  refuses_buffers(context);
  refuses_row_work(context);
  fusco_context_destroy(context);
  return 0;
}
