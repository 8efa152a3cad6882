/* Planning through the C interface: the plan of plans.h, made from its ids, and what is refused. */
#include <stddef.h>
#include <string.h>

#include "fusco_planning.h"
#include "plan_layout.h"
#include "plans.h"

enum { EXPERTS = 2, COUNTS = EXPERTS };

static const int32_t IDS[RANKS][2 * TOPK] = {{0, 1, 1, -1}, {1, 0, 0, 0}};

static fusco_plan_options options_of_two(void) {
  fusco_plan_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.experts = EXPERTS;
  options.ranks = RANKS;
  options.topk = TOPK;
  options.align = 4;
  options.dtype = FUSCO_DTYPE_F32;
  return options;
}

static fusco_ids ids_of(int rank) {
  const fusco_ids ids = {.struct_size = sizeof ids,
                         .dtype = FUSCO_ID_I32,
                         .tokens = TOKENS[rank],
                         .topk = TOPK,
                         .data = IDS[rank]};
  return ids;
}

static fusco_planner *planner_of_two(void) {
  const fusco_plan_options options = options_of_two();
  fusco_planner *planner = NULL;
  CHECK(fusco_planner_create(&options, &planner, NULL) == FUSCO_OK);
  fusco_planner_info info;
  info.struct_size = sizeof info;
  CHECK(fusco_planner_describe(planner, &info, NULL) == FUSCO_OK);
  CHECK(info.instances == EXPERTS && info.counts == COUNTS && info.second_counts == 0);
  return planner;
}

static void count_all(const fusco_planner *planner, uint32_t counts[RANKS][COUNTS]) {
  for (int rank = 0; rank < RANKS; rank++) {
    const fusco_ids ids = ids_of(rank);
    CHECK(fusco_planner_count(planner, (uint32_t)rank, &ids, counts[rank], NULL) == FUSCO_OK);
  }
}

/* Written, read again, compared with its routing, and refused with one byte changed. */
static void plan_files_hold_shards(const fusco_plan_options *options, const fusco_buffer *shards) {
  const char *path = "test_planning.fusco";
  uint8_t plan_id[32];
  fusco_error error;
  fusco_plan_file_info info = {.struct_size = sizeof info, .options = options, .shards = shards};
  CHECK(fusco_plan_file_write(path, &info, plan_id, &error) == FUSCO_OK);
  fusco_plan_file *file = NULL;
  CHECK(fusco_plan_file_open(path, &file, &error) == FUSCO_OK);
  fusco_plan_file_info found = {.struct_size = sizeof found};
  CHECK(fusco_plan_file_describe(file, &found, &error) == FUSCO_OK);
  CHECK(memcmp(found.plan_id, plan_id, sizeof plan_id) == 0 && found.rail_groups == NULL);
  CHECK(found.options->align == options->align && found.options->hidden == 7168);
  for (int rank = 0; rank < RANKS; rank++) {
    CHECK(found.shards[rank].bytes == shards[rank].bytes);
    CHECK(memcmp(found.shards[rank].data, shards[rank].data, shards[rank].bytes) == 0);
  }
  const fusco_ids ids[RANKS] = {ids_of(0), ids_of(1)};
  CHECK(fusco_plan_file_check_routing(file, ids, &error) == FUSCO_OK);
  fusco_plan_file_close(file);
  CHECK(remove(path) == 0);

  /* Shards that contradict each other are not written. */
  uint32_t *words = shards[1].data;
  words[FUSCO_W_RECV_ROWS]++;
  CHECK(fusco_plan_file_write(path, &info, NULL, &error) == FUSCO_E_RUN_TABLE);
  CHECK(fusco_plan_file_open(path, &file, &error) == FUSCO_E_FILE_NOT_FOUND);
  words[FUSCO_W_RECV_ROWS]--;
}

static void shards_make_a_plan(void) {
  fusco_planner *planner = planner_of_two();
  uint32_t counts[RANKS][COUNTS];
  count_all(planner, counts);
  CHECK(counts[0][0] == 1 && counts[0][1] == 2 && counts[1][0] == 1 && counts[1][1] == 1);
  fusco_decision decision = {.struct_size = sizeof decision};
  CHECK(fusco_planner_decide(planner, counts[0], NULL, &decision, NULL, NULL) == FUSCO_OK);
  CHECK(decision.strategy == FUSCO_STRATEGY_FLAT);

  fusco_buffer shards[RANKS];
  for (int rank = 0; rank < RANKS; rank++) {
    const fusco_ids ids = ids_of(rank);
    shards[rank].data = NULL;
    CHECK(fusco_planner_shard(planner, (uint32_t)rank, &ids, counts[0], NULL, &shards[rank], NULL) ==
          FUSCO_OK);
    shards[rank].data = malloc(shards[rank].bytes);
    CHECK(fusco_planner_shard(planner, (uint32_t)rank, &ids, counts[0], NULL, &shards[rank], NULL) ==
          FUSCO_OK);
    const uint32_t *words = shards[rank].data;
    CHECK(words[FUSCO_W_TOKENS] == TOKENS[rank] && words[FUSCO_W_RECV_ROWS] == RECV_ROWS);
  }
  const fusco_plan_options options = options_of_two();
  plan_files_hold_shards(&options, shards);
  fusco_context *context = NULL;
  CHECK(fusco_context_create(NULL, &context, NULL) == FUSCO_OK);
  fusco_plan *plan = NULL;
  CHECK(upload(context, shards, &plan, NULL) == FUSCO_OK);

  /* An entry's slot, as the comment of plans.h says: a row goes there. */
  const float x0[2] = {10, 20}, x1[1] = {30};
  float received[RANKS][RECV_ROWS];
  const fusco_buffer from[RANKS] = {{(void *)x0, sizeof x0}, {(void *)x1, sizeof x1}};
  const fusco_buffer to[RANKS] = {{received[0], sizeof received[0]}, {received[1], sizeof received[1]}};
  const fusco_payload payload = {.struct_size = sizeof payload, .row_bytes = 4, .from = from, .to = to};
  const fusco_dispatch_call call = {.struct_size = sizeof call, .payload_count = 1, .payloads = &payload};
  CHECK(fusco_dispatch(plan, &call, NULL, NULL) == FUSCO_OK);
  const float expected[RANKS][RECV_ROWS] = {{10, 30, 0, 0}, {10, 20, 30, 0}};
  CHECK(memcmp(received, expected, sizeof expected) == 0);

  fusco_plan_destroy(plan);
  fusco_context_destroy(context);
  for (int rank = 0; rank < RANKS; rank++) free(shards[rank].data);
  fusco_planner_destroy(planner);
}

/* Rank 0 sends two rows to rank 1, of one machine or of two; no choice of hops makes that fewer. */
static void auto_chooses_a_strategy(void) {
  for (uint32_t ranks_per_host = 1; ranks_per_host <= RANKS; ranks_per_host++) {
    fusco_plan_options options = options_of_two();
    options.strategy = FUSCO_STRATEGY_AUTO;
    options.ranks_per_node = 1;
    options.ranks_per_host = ranks_per_host;
    fusco_planner *planner = NULL;
    CHECK(fusco_planner_create(&options, &planner, NULL) == FUSCO_OK);
    fusco_planner_info info = {.struct_size = sizeof info};
    CHECK(fusco_planner_describe(planner, &info, NULL) == FUSCO_OK);
    CHECK(info.counts == EXPERTS + RANKS && info.second_counts == 0);
    uint32_t counts[RANKS][EXPERTS + RANKS];
    for (int rank = 0; rank < RANKS; rank++) {
      const fusco_ids ids = ids_of(rank);
      CHECK(fusco_planner_count(planner, (uint32_t)rank, &ids, counts[rank], NULL) == FUSCO_OK);
    }
    CHECK(counts[0][EXPERTS] == 0 && counts[0][EXPERTS + 1] == 2);
    fusco_decision decision = {.struct_size = sizeof decision};
    uint16_t groups[RANKS];
    CHECK(fusco_planner_decide(planner, counts[0], NULL, &decision, groups, NULL) == FUSCO_OK);
    CHECK(decision.strategy == FUSCO_STRATEGY_FLAT && decision.ranks_per_node == 1);
    const char *reason = ranks_per_host == 1
                             ? "flat has the least busy rank: flat 2 rows between machines and 0 inside, "
                               "once per rank 2 rows between machines and 0 inside"
                             : "flat has the least busy rank: flat 0 rows between machines and 2 inside, "
                               "once per rank 0 rows between machines and 2 inside";
    CHECK(strcmp(decision.reason, reason) == 0);
    /* A caller of an older version, whose struct ends with the rule. */
    memset(&decision, 0xff, sizeof decision);
    decision.struct_size = offsetof(fusco_decision, ranks_per_node);
    CHECK(fusco_planner_decide(planner, counts[0], NULL, &decision, groups, NULL) == FUSCO_OK);
    CHECK(decision.strategy == FUSCO_STRATEGY_FLAT && decision.ranks_per_node == UINT32_MAX);
    CHECK(decision.reason[0] == (char)0xff);
    fusco_planner_destroy(planner);
  }
}

static void bad_arguments_are_refused(void) {
  fusco_planner *planner = planner_of_two();
  uint32_t counts[RANKS][COUNTS];
  count_all(planner, counts);
  fusco_error error;
  fusco_ids ids = ids_of(0);
  CHECK(fusco_planner_count(NULL, 0, &ids, counts[0], &error) == FUSCO_E_OPTION);
  CHECK(fusco_planner_count(planner, 0, NULL, counts[0], &error) == FUSCO_E_OPTION);
  CHECK(fusco_planner_count(planner, 0, &ids, NULL, &error) == FUSCO_E_OPTION);
  CHECK(fusco_planner_count(planner, RANKS, &ids, counts[0], &error) == FUSCO_E_OPTION);
  ids.topk = 1;
  CHECK(fusco_planner_count(planner, 0, &ids, counts[0], &error) == FUSCO_E_ROUTING_SHAPE);
  ids = ids_of(0);
  ids.dtype = (fusco_id_dtype)8;
  CHECK(fusco_planner_count(planner, 0, &ids, counts[0], &error) == FUSCO_E_ROUTING_DTYPE);
  ids = ids_of(0);
  ids.data = (const char *)IDS[0] + 1;
  CHECK(fusco_planner_count(planner, 0, &ids, counts[0], &error) == FUSCO_E_BUFFER);
  ids.data = NULL;
  CHECK(fusco_planner_count(planner, 0, &ids, counts[0], &error) == FUSCO_E_OPTION);
  ids.tokens = UINT32_MAX;
  CHECK(fusco_planner_count(planner, 0, &ids, counts[0], &error) == FUSCO_E_LIMIT);
  /* A token that names an expert twice. */
  ids = ids_of(1);
  ids.tokens = 2;
  CHECK(fusco_planner_count(planner, 1, &ids, counts[1], &error) == FUSCO_E_ROUTING_DUPLICATE);
  CHECK(error.rank == 1 && strcmp(error.path, "/ranks/1/tokens/1/k/1") == 0);

  ids = ids_of(0);
  uint32_t words[64];
  fusco_buffer small = {words, sizeof words};
  CHECK(fusco_planner_shard(planner, 0, &ids, counts[0], NULL, &small, &error) == FUSCO_E_BUFFER);
  CHECK(error.value > error.limit && error.limit == sizeof words);
  fusco_planner_destroy(planner);
}

static void bad_options_are_refused(void) {
  fusco_error error;
  fusco_planner *planner = NULL;
  fusco_plan_options options = options_of_two();
  options.struct_size = 0;
  CHECK(fusco_planner_create(&options, &planner, &error) == FUSCO_E_OPTION && planner == NULL);
  options = options_of_two();
  options.balance = (fusco_balance)7;
  CHECK(fusco_planner_create(&options, &planner, &error) == FUSCO_E_OPTION);
  options = options_of_two();
  options.ranks_per_host = RANKS + 1; /* only AUTO reads it */
  options.strategy = FUSCO_STRATEGY_AUTO;
  CHECK(fusco_planner_create(&options, &planner, &error) == FUSCO_E_OPTION && planner == NULL);
  CHECK(strcmp(error.message, "ranksPerHost is 3; it must be an integer from 1 to 2") == 0);
  options = options_of_two();
  const uint32_t offsets[EXPERTS + 1] = {0, 1, 2};
  options.placement_offsets = offsets;
  CHECK(fusco_planner_create(&options, &planner, &error) == FUSCO_E_OPTION);
  const uint16_t ranks[2] = {0, RANKS};
  options.placement_ranks = ranks;
  CHECK(fusco_planner_create(&options, &planner, &error) == FUSCO_E_PLACEMENT);
  CHECK(strcmp(error.path, "/placement/1") == 0 && planner == NULL);
}

int main(void) {
  shards_make_a_plan();
  auto_chooses_a_strategy();
  bad_arguments_are_refused();
  bad_options_are_refused();
  return 0;
}
