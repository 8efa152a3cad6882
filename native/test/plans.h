/* A plan of two ranks, written by hand, and the checks that the C tests share. */
#ifndef FUSCO_TEST_PLANS_H
#define FUSCO_TEST_PLANS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "fusco.h"

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)

/*
 * Expert 0 lives on rank 0, expert 1 on rank 1; topk 2; blocks are padded to 4 rows.
 *   rank 0 token 0 -> experts 0, 1     rank 0 token 1 -> expert 1, none     rank 1 token 0 -> experts 1, 0
 * Receive buffers, by (source rank, token, k):
 *   rank 0: (0,0,0) (1,0,1) padding padding     rank 1: (0,0,1) (0,1,0) (1,0,0) padding
 */
enum { RANKS = 2, TOPK = 2, RECV_ROWS = 4 };
static const uint32_t TOKENS[RANKS] = {2, 1};

/* The parts of a shard that the executor reads; tests change them before they are written. */
typedef struct shard_fields {
  uint32_t rank, tokens, first_instance, recv_rows, kept, masked, dropped;
  uint32_t expert_offset[2], expert_rows[1];
  int32_t slot[4];
  uint16_t instance[4];
} shard_fields;

void plan_fields(shard_fields fields[RANKS]);

/* The shard's bytes, in memory that the caller frees. */
fusco_buffer make_shard(const shard_fields *fields);

/* Uploads a plan of these two shards. */
fusco_status upload(fusco_context *context, const fusco_buffer shards[RANKS], fusco_plan **plan,
                    fusco_error *error);

#endif
