/*
 * What the executor and the planner are measured against, in the same process, with the same threads and the
 * same copy routine. Not part of the library: only the addon fusco_bench.node contains it.
 */
#ifndef FUSCO_BENCH_H
#define FUSCO_BENCH_H

#include "fusco.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fusco_copy_variant {
  FUSCO_COPY_MEMCPY = 0,
  /* With stores that bypass the caches. */
  FUSCO_COPY_NON_TEMPORAL = 1,
  /* Copies one block that stays in the cache to the whole destination, bypassing it: the rate of writes
     alone. */
  FUSCO_COPY_FILL = 2
} fusco_copy_variant;

/*
 * Copies `bytes` bytes from one large buffer to another with all threads of the context; `*best` is the time
 * of the fastest of `runs` runs in nanoseconds. The rate of such a copy is 2 x bytes / time,
 * of a fill bytes / time. E_OPTION, E_MEMORY.
 */
fusco_status fusco_bench_copy(fusco_context *context, fusco_copy_variant variant, uint64_t bytes,
                              uint32_t runs, uint64_t *best, fusco_error *error);

/* The pipeline that fusion replaces: permutation, exchange in device-major blocks, permutation. */
typedef struct fusco_unfused fusco_unfused;

/* Makes its tables and its send and receive buffers for rows of `row_bytes`. The plan must outlive it. */
fusco_status fusco_unfused_create(fusco_plan *plan, uint64_t row_bytes, fusco_unfused **unfused,
                                  fusco_error *error);
void fusco_unfused_destroy(fusco_unfused *unfused);

/* Dispatch of one per-token payload. Padding is not written. */
fusco_status fusco_unfused_dispatch(fusco_unfused *unfused, const fusco_dispatch_call *call,
                                    fusco_stats *stats, fusco_error *error);

/* Combine; the same result as fusco_combine, bit for bit. */
fusco_status fusco_unfused_combine(fusco_unfused *unfused, const fusco_combine_call *call, fusco_stats *stats,
                                   fusco_error *error);

/*
 * The planner's hot path in C++: a stable counting sort of `count` destination instances (values up to
 * `instances`, which stands for "masked"): counts, offsets, a slot per entry. `unrolled` works by eight
 * entries, as the planner does. `*best` as above. E_OPTION, E_MEMORY.
 */
fusco_status fusco_bench_slots(const uint16_t *entries, uint64_t count, uint32_t instances, int unrolled,
                               uint32_t runs, uint64_t *best, fusco_error *error);

#ifdef __cplusplus
}
#endif
#endif
