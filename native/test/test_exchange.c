/* Dispatch, combine and the weights' gradient on the plan of plans.h, from C and without Node. */

#include <fenv.h>
#include <string.h>

/* Whether the processor has flags that flush subnormals; valgrind does not emulate them. */
#if defined(__x86_64__) && !defined(FUSCO_TEST_NO_FLUSH)
#include <xmmintrin.h>
#define FLUSHES 1
#else
#define FLUSHES 0
#endif

#include "plans.h"

enum { HIDDEN = 3 };

static fusco_buffer floats(float *values, size_t count) {
  const fusco_buffer buffer = {values, count * sizeof(float)};
  return buffer;
}

static void dispatch_moves_rows_weights_and_origins(fusco_plan *plan) {
  float x0[2][HIDDEN] = {{1, 2, 3}, {4, 5, 6}};
  float x1[1][HIDDEN] = {{7, 8, 9}};
  float w0[2][TOPK] = {{0.5f, 0.25f}, {2, 99}};
  float w1[1][TOPK] = {{3, 4}};
  float recv[RANKS][RECV_ROWS][HIDDEN];
  float weights[RANKS][RECV_ROWS];
  int32_t origins[RANKS][RECV_ROWS][3];
  memset(recv, 0x55, sizeof recv);
  memset(weights, 0x55, sizeof weights);
  memset(origins, 0x55, sizeof origins);

  const fusco_buffer from[RANKS] = {floats(x0[0], 6), floats(x1[0], 3)};
  const fusco_buffer to[RANKS] = {floats(recv[0][0], 12), floats(recv[1][0], 12)};
  const fusco_buffer weights_from[RANKS] = {floats(w0[0], 4), floats(w1[0], 2)};
  const fusco_buffer weights_to[RANKS] = {floats(weights[0], 4), floats(weights[1], 4)};
  const fusco_buffer origins_to[RANKS] = {{origins[0], sizeof origins[0]}, {origins[1], sizeof origins[1]}};
  const fusco_payload payloads[2] = {
      {.struct_size = sizeof(fusco_payload),
       .row_bytes = sizeof x0[0],
       .per = FUSCO_PER_TOKEN,
       .from = from,
       .to = to},
      {.struct_size = sizeof(fusco_payload),
       .row_bytes = 4,
       .per = FUSCO_PER_ENTRY,
       .from = weights_from,
       .to = weights_to},
  };
  const fusco_dispatch_call call = {.struct_size = sizeof(fusco_dispatch_call),
                                    .payloads = payloads,
                                    .payload_count = 2,
                                    .origins = origins_to};
  fusco_stats stats;
  fusco_error error;
  CHECK(fusco_dispatch(plan, &call, &stats, &error) == FUSCO_OK);

  const float expected[RANKS][RECV_ROWS][HIDDEN] = {{{1, 2, 3}, {7, 8, 9}, {0, 0, 0}, {0, 0, 0}},
                                                    {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}, {0, 0, 0}}};
  const float expected_weights[RANKS][RECV_ROWS] = {{0.5f, 4, 0, 0}, {0.25f, 2, 3, 0}};
  const int32_t expected_origins[RANKS][RECV_ROWS][3] = {{{0, 0, 0}, {1, 0, 1}, {-1, -1, -1}, {-1, -1, -1}},
                                                         {{0, 0, 1}, {0, 1, 0}, {1, 0, 0}, {-1, -1, -1}}};
  CHECK(memcmp(recv, expected, sizeof recv) == 0);
  CHECK(memcmp(weights, expected_weights, sizeof weights) == 0);
  CHECK(memcmp(origins, expected_origins, sizeof origins) == 0);
  CHECK(stats.rows == 5);
  CHECK(stats.bytes_read == 3 * 12 + 5 * 4);
  CHECK(stats.bytes_written == 5 * 12 + 5 * 4);
}

static void dispatch_scales_each_copy(fusco_plan *plan) {
  float x0[2] = {3, 5};
  float x1[1] = {7};
  float w0[4] = {0.5f, 2, -1, 99};
  float w1[2] = {10, 0};
  float recv[RANKS][RECV_ROWS];
  const fusco_buffer from[RANKS] = {floats(x0, 2), floats(x1, 1)};
  const fusco_buffer to[RANKS] = {floats(recv[0], 4), floats(recv[1], 4)};
  const fusco_buffer scale[RANKS] = {floats(w0, 4), floats(w1, 2)};
  const fusco_payload payload = {
      .struct_size = sizeof(fusco_payload), .row_bytes = 4, .dtype = FUSCO_DTYPE_F32, .from = from, .to = to};
  const fusco_dispatch_call call = {
      .struct_size = sizeof(fusco_dispatch_call), .payloads = &payload, .payload_count = 1, .scale = scale};
  CHECK(fusco_dispatch(plan, &call, NULL, NULL) == FUSCO_OK);
  const float expected[RANKS][RECV_ROWS] = {{1.5f, 0, 0, 0}, {6, -5, 70, 0}};
  CHECK(memcmp(recv, expected, sizeof recv) == 0);
}

static void combine_adds_in_ascending_k(fusco_plan *plan) {
  /* 1e8 + 1 - 1e8 depends on the order and on rounding after each addition. */
  float y[RANKS][RECV_ROWS] = {{1e8f, 3, 777, 777}, {1, 5, -2, 777}};
  float w0[4] = {1, 1, 2, 99};
  float w1[2] = {1, 0.5f};
  float out0[2];
  float out1[1];
  const fusco_buffer from[RANKS] = {floats(y[0], 4), floats(y[1], 4)};
  const fusco_buffer to[RANKS] = {floats(out0, 2), floats(out1, 1)};
  const fusco_buffer weights[RANKS] = {floats(w0, 4), floats(w1, 2)};
  fusco_combine_call call = {.struct_size = sizeof(fusco_combine_call),
                             .dtype = FUSCO_DTYPE_F32,
                             .row_bytes = 4,
                             .from = from,
                             .to = to};
  CHECK(fusco_combine(plan, &call, NULL, NULL) == FUSCO_OK);
  CHECK(out0[0] == 1e8f && out0[1] == 5 && out1[0] == 1);
  call.weights = weights;
  CHECK(fusco_combine(plan, &call, NULL, NULL) == FUSCO_OK);
  CHECK(out0[0] == 1e8f && out0[1] == 10 && out1[0] == -0.5f);
}

static void gradients_of_a_combine(fusco_plan *plan) {
  float g0[4] = {1, 2, 3, 4};
  float g1[2] = {5, 6};
  float y[RANKS][RECV_ROWS][2] = {{{1, 10}, {2, 20}, {0}, {0}}, {{3, 30}, {4, 40}, {5, 50}, {0}}};
  float dw0[4] = {9, 9, 9, 9};
  float dw1[2] = {9, 9};
  const fusco_buffer gradient[RANKS] = {floats(g0, 4), floats(g1, 2)};
  const fusco_buffer from[RANKS] = {floats(y[0][0], 8), floats(y[1][0], 8)};
  const fusco_buffer to[RANKS] = {floats(dw0, 4), floats(dw1, 2)};
  const fusco_weight_gradient_call call = {.struct_size = sizeof(fusco_weight_gradient_call),
                                           .dtype = FUSCO_DTYPE_F32,
                                           .row_bytes = 8,
                                           .output_gradient = gradient,
                                           .from = from,
                                           .to = to};
  CHECK(fusco_weight_gradient(plan, &call, NULL, NULL) == FUSCO_OK);
  CHECK(dw0[0] == 21 && dw0[1] == 63 && dw0[2] == 172 && dw0[3] == 0);
  CHECK(dw1[0] == 325 && dw1[1] == 130);
  const float expected_weights[4] = {dw0[0], dw0[1], dw0[2], dw0[3]};

  float w0[4] = {0.5f, 2, -1, 99};
  float w1[2] = {10, 0};
  float recv[RANKS][RECV_ROWS][2];
  int32_t origins[RANKS][RECV_ROWS][3];
  const fusco_buffer weights[RANKS] = {floats(w0, 4), floats(w1, 2)};
  const fusco_buffer rows[RANKS] = {floats(recv[0][0], 8), floats(recv[1][0], 8)};
  const fusco_buffer origin_buffers[RANKS] = {{origins[0], sizeof origins[0]},
                                              {origins[1], sizeof origins[1]}};
  const fusco_combine_gradient_call both = {.struct_size = sizeof(fusco_combine_gradient_call),
                                            .dtype = FUSCO_DTYPE_F32,
                                            .row_bytes = 8,
                                            .output_gradient = gradient,
                                            .from = from,
                                            .weights = weights,
                                            .to = rows,
                                            .weights_gradient = to,
                                            .origins = origin_buffers};
  memset(dw0, 0xff, sizeof dw0);
  memset(dw1, 0xff, sizeof dw1);
  fusco_stats stats;
  CHECK(fusco_combine_gradient(plan, &both, &stats, NULL) == FUSCO_OK);
  CHECK(memcmp(dw0, expected_weights, sizeof dw0) == 0 && dw1[0] == 325 && dw1[1] == 130);
  const float expected[RANKS][RECV_ROWS][2] = {{{0.5f, 1}, {0, 0}, {0, 0}, {0, 0}},
                                               {{2, 4}, {-3, -4}, {50, 60}, {0, 0}}};
  CHECK(memcmp(recv, expected, sizeof recv) == 0);
  CHECK(origins[0][1][0] == 1 && origins[0][1][1] == 0 && origins[0][1][2] == 1 && origins[0][2][0] == -1);
  CHECK(stats.rows == 5 && stats.bytes_read == (3 + 5) * 8 && stats.bytes_written == 5 * 8 + 6 * 4);
  /* An output that overlaps an input is refused. */
  fusco_combine_gradient_call overlapping = both;
  overlapping.to = from;
  CHECK(fusco_combine_gradient(plan, &overlapping, NULL, NULL) == FUSCO_E_BUFFER);
}

/* A process may have changed the rounding mode or switched subnormals off: results must not depend on it, and
 * the caller must find its own state again. */
static void results_do_not_depend_on_the_callers_float_state(fusco_plan *plan) {
  float y[RANKS][RECV_ROWS] = {{16777216, 0, 0, 0}, {3, 0, 0, 0}};
  const float smallest = 1.40129846e-45f;
  memcpy(&y[1][1], &smallest, sizeof smallest);
  float out0[2];
  float out1[1];
  const fusco_buffer from[RANKS] = {floats(y[0], 4), floats(y[1], 4)};
  const fusco_buffer to[RANKS] = {floats(out0, 2), floats(out1, 1)};
  const fusco_combine_call call = {.struct_size = sizeof(fusco_combine_call),
                                   .dtype = FUSCO_DTYPE_F32,
                                   .row_bytes = 4,
                                   .from = from,
                                   .to = to};
  fesetround(FE_TOWARDZERO);
#if FLUSHES
  const unsigned before = _mm_getcsr();
  const unsigned flushing = before | 0x8040u;
  _mm_setcsr(flushing);
#endif
  const fusco_status status = fusco_combine(plan, &call, NULL, NULL);
  const int rounding = fegetround();
#if FLUSHES
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  CHECK((after & 0xffc0u) == (flushing & 0xffc0u));
#endif
  fesetround(FE_TONEAREST);
  CHECK(status == FUSCO_OK && rounding == FE_TOWARDZERO);
  /* 2^24 + 3 lies half way between two floats; the even one is above. */
  const uint32_t expected[2] = {0x4b800002, 1};
  CHECK(memcmp(out0, expected, sizeof out0) == 0);
}

int main(void) {
  const fusco_context_options kinds[] = {{.threads = 0},
                                         {.threads = 1},
                                         {.threads = 4, .nontemporal_bytes = 1},
                                         {.kernels = FUSCO_KERNELS_PORTABLE}};
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    fusco_context_options options = kinds[i];
    options.struct_size = sizeof options;
    fusco_context *context = NULL;
    CHECK(fusco_context_create(&options, &context, NULL) == FUSCO_OK);
    shard_fields fields[RANKS];
    plan_fields(fields);
    fusco_buffer shards[RANKS] = {make_shard(&fields[0]), make_shard(&fields[1])};
    fusco_plan *plan = NULL;
    fusco_error error;
    CHECK(upload(context, shards, &plan, &error) == FUSCO_OK);
    CHECK(fusco_plan_ranks(plan) == RANKS && fusco_plan_topk(plan) == TOPK);
    CHECK(fusco_plan_tokens(plan, 0) == 2 && fusco_plan_recv_rows(plan, 1) == RECV_ROWS);
    /* The upload copied everything: the shards, and even the context's handle, may go. */
    memset(shards[0].data, 0xff, shards[0].bytes);
    free(shards[0].data);
    free(shards[1].data);
    fusco_context_destroy(context);
    for (int again = 0; again < 3; again++) {
      dispatch_moves_rows_weights_and_origins(plan);
      dispatch_scales_each_copy(plan);
      combine_adds_in_ascending_k(plan);
      gradients_of_a_combine(plan);
      results_do_not_depend_on_the_callers_float_state(plan);
    }
    fusco_plan_destroy(plan);
  }
  return 0;
}
