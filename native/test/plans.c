#include "plans.h"

#include <string.h>

#include "plan_layout.h"

void plan_fields(shard_fields fields[RANKS]) {
  const shard_fields rank0 = {
      .rank = 0,
      .tokens = 2,
      .first_instance = 0,
      .recv_rows = 4,
      .kept = 3,
      .masked = 1,
      .expert_offset = {0, 4},
      .expert_rows = {2},
      .slot = {0, 0, 1, FUSCO_SLOT_MASKED},
      .instance = {0, 1, 1, 2},
  };
  const shard_fields rank1 = {
      .rank = 1,
      .tokens = 1,
      .first_instance = 1,
      .recv_rows = 4,
      .kept = 2,
      .expert_offset = {0, 4},
      .expert_rows = {3},
      .slot = {2, 1},
      .instance = {1, 0},
  };
  fields[0] = rank0;
  fields[1] = rank1;
}

static void put_section(uint8_t *shard, uint32_t *end, int section, const void *values, uint32_t count,
                        uint32_t element_bytes) {
  const uint32_t entry[2] = {*end, count};
  memcpy(shard + FUSCO_SECTION_TABLE + 8 * section, entry, sizeof entry);
  memcpy(shard + *end, values, count * element_bytes);
  *end += (count * element_bytes + FUSCO_SECTION_ALIGN - 1) / FUSCO_SECTION_ALIGN * FUSCO_SECTION_ALIGN;
}

fusco_buffer make_shard(const shard_fields *fields) {
  const uint32_t entries = fields->tokens * TOPK;
  uint8_t *shard = calloc(1, FUSCO_SHARD_BODY + 4 * FUSCO_SECTION_ALIGN);
  CHECK(shard != NULL);
  uint32_t words[FUSCO_SHARD_WORDS] = {0};
  words[FUSCO_W_MAGIC] = FUSCO_SHARD_MAGIC;
  words[FUSCO_W_RANK] = fields->rank;
  words[FUSCO_W_RANKS] = RANKS;
  words[FUSCO_W_TOKENS] = fields->tokens;
  words[FUSCO_W_TOPK] = TOPK;
  words[FUSCO_W_INSTANCES] = 2;
  words[FUSCO_W_FIRST_INSTANCE] = fields->first_instance;
  words[FUSCO_W_LOCAL_INSTANCES] = 1;
  words[FUSCO_W_RECV_ROWS] = fields->recv_rows;
  words[FUSCO_W_KEPT] = fields->kept;
  words[FUSCO_W_MASKED] = fields->masked;
  words[FUSCO_W_DROPPED] = fields->dropped;
  memcpy(shard, words, sizeof words);
  uint32_t end = FUSCO_SHARD_BODY;
  put_section(shard, &end, FUSCO_S_EXPERT_OFFSET, fields->expert_offset, 2, 4);
  put_section(shard, &end, FUSCO_S_EXPERT_ROWS, fields->expert_rows, 1, 4);
  put_section(shard, &end, FUSCO_S_ENTRY_SLOT, fields->slot, entries, 4);
  put_section(shard, &end, FUSCO_S_ENTRY_INSTANCE, fields->instance, entries, 2);
  const fusco_buffer result = {shard, end};
  return result;
}

fusco_status upload(fusco_context *context, const fusco_buffer shards[RANKS], fusco_plan **plan,
                    fusco_error *error) {
  const fusco_plan_desc desc = {.struct_size = sizeof(fusco_plan_desc),
                                .ranks = RANKS,
                                .ranks_per_node = RANKS,
                                .strategy = FUSCO_STRATEGY_FLAT,
                                .shards = shards};
  return fusco_plan_create(context, &desc, plan, error);
}
