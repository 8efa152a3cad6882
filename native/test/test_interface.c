/* The rules of the C interface: struct sizes, status names, and functions that are declared before they
 * exist. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fusco_planning.h"
#include "plans.h"

/* A newer caller's struct: ours, and fields that this library does not know. */
typedef struct newer_context_options {
  fusco_context_options known;
  uint64_t unknown;
} newer_context_options;

typedef struct newer_payload {
  fusco_payload known;
  uint64_t unknown;
} newer_payload;

static void checks_struct_sizes(void) {
  fusco_error error;
  fusco_context *context = NULL;
  fusco_context_options options = {.threads = 1};
  CHECK(fusco_context_create(&options, &context, &error) == FUSCO_E_OPTION);
  CHECK(strstr(error.message, "fusco_context_options.struct_size is 0") != NULL);
  options.struct_size = UINT32_MAX;
  CHECK(fusco_context_create(&options, &context, &error) == FUSCO_E_OPTION && context == NULL);

  /* An older caller: the fields behind its own are their defaults, whatever is in memory there. */
  options = (fusco_context_options){
      .struct_size = offsetof(fusco_context_options, kernels), .threads = 2, .kernels = (fusco_kernels)99};
  CHECK(fusco_context_create(&options, &context, &error) == FUSCO_OK);
  CHECK(fusco_context_threads(context) == 2);
  fusco_context_destroy(context);

  newer_context_options newer = {.known = {.struct_size = sizeof newer, .threads = 1}, .unknown = 0};
  CHECK(fusco_context_create(&newer.known, &context, &error) == FUSCO_OK);
  fusco_context_destroy(context);
  context = NULL;
  newer.unknown = 1;
  CHECK(fusco_context_create(&newer.known, &context, &error) == FUSCO_E_OPTION && context == NULL);
  CHECK(strstr(error.message, "does not know") != NULL);
}

/* The distance between payloads is their stated size. */
static void reads_payloads_of_another_size(fusco_plan *plan) {
  float x0[2] = {1, 2}, x1[1] = {3};
  float first[RANKS][RECV_ROWS], second[RANKS][RECV_ROWS];
  const fusco_buffer from[RANKS] = {{x0, sizeof x0}, {x1, sizeof x1}};
  const fusco_buffer to[2][RANKS] = {{{first[0], sizeof first[0]}, {first[1], sizeof first[1]}},
                                     {{second[0], sizeof second[0]}, {second[1], sizeof second[1]}}};
  newer_payload payloads[2];
  memset(payloads, 0, sizeof payloads);
  for (int i = 0; i < 2; i++) {
    payloads[i].known =
        (fusco_payload){.struct_size = sizeof(newer_payload), .row_bytes = 4, .from = from, .to = to[i]};
  }
  const fusco_dispatch_call call = {
      .struct_size = sizeof call, .payload_count = 2, .payloads = &payloads[0].known};
  fusco_error error;
  CHECK(fusco_dispatch(plan, &call, NULL, &error) == FUSCO_OK);
  CHECK(memcmp(first, second, sizeof first) == 0);
  payloads[1].unknown = 7;
  CHECK(fusco_dispatch(plan, &call, NULL, &error) == FUSCO_E_OPTION);
  payloads[1].unknown = 0;
  payloads[1].known.struct_size = sizeof(fusco_payload);
  CHECK(fusco_dispatch(plan, &call, NULL, &error) == FUSCO_E_OPTION);
}

static void names_every_status(void) {
  CHECK(strcmp(fusco_status_name(FUSCO_OK), "OK") == 0);
  CHECK(strcmp(fusco_status_name(FUSCO_E_PEER_MISMATCH), "E_PEER_MISMATCH") == 0);
  CHECK(strcmp(fusco_status_name(FUSCO_E_FORWARD), "E_FORWARD") == 0);
  CHECK(strcmp(fusco_status_name((fusco_status)(FUSCO_E_MAX_ROWS + 1)), "E_INTERNAL") == 0);
  CHECK(strcmp(fusco_status_name((fusco_status)-1), "E_INTERNAL") == 0);
}

int main(void) {
  checks_struct_sizes();
  names_every_status();
  fusco_context *context = NULL;
  CHECK(fusco_context_create(NULL, &context, NULL) == FUSCO_OK);
  shard_fields fields[RANKS];
  plan_fields(fields);
  fusco_buffer shards[RANKS] = {make_shard(&fields[0]), make_shard(&fields[1])};
  fusco_plan *plan = NULL;
  CHECK(upload(context, shards, &plan, NULL) == FUSCO_OK);
  for (int rank = 0; rank < RANKS; rank++) free(shards[rank].data);
  reads_payloads_of_another_size(plan);
  fusco_plan_destroy(plan);
  fusco_context_destroy(context);
  return 0;
}
