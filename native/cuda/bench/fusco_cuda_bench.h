/* What the fused exchange on the GPU is measured against, streams and GPUs that are busy for a given time,
 * for tests of what must wait, and a choice of kernels that plan. Not part of the library: only the addon
 * fusco_bench.node contains it. */
#ifndef FUSCO_CUDA_BENCH_H
#define FUSCO_CUDA_BENCH_H

#include "fusco_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Occupies one thread of the rank's device for `nanoseconds`, at most 10 s, on the rank's stream. Enqueues.
 * E_OPTION, E_BACKEND. */
fusco_status fusco_cuda_spin(fusco_cuda_context *context, uint32_t rank, uint64_t nanoseconds,
                             fusco_error *error);

/* Occupies all SMs of the rank's device but `sms_left` for `nanoseconds`, at most 10 s, on the rank's stream;
 * no block of another kernel fits on these SMs. Enqueues. E_OPTION, E_BACKEND. */
fusco_status fusco_cuda_occupy(fusco_cuda_context *context, uint32_t rank, uint32_t sms_left,
                               uint64_t nanoseconds, fusco_error *error);

/* Whether one kernel makes a plan whose tables fit the shared memory of a block (1, at first) or one for each
 * pass does (0), for all planners of this process. */
fusco_status fusco_cuda_small_plans(uint32_t are_made, fusco_error *error);

/* The pipeline that fusion replaces: pack by destination, copy blocks between ranks, permute into expert
 * order. */
typedef struct fusco_cuda_unfused fusco_cuda_unfused;

/* Makes its tables and two buffers of all rows. `row_bytes` is a multiple of 16; all ranks of the plan are on
 * one device. The plan must outlive it. E_OPTION, E_MEMORY. */
fusco_status fusco_cuda_unfused_create(fusco_cuda_plan *plan, uint64_t row_bytes,
                                       fusco_cuda_unfused **unfused, fusco_error *error);
void fusco_cuda_unfused_destroy(fusco_cuda_unfused *unfused);
/* Dispatch of one per-token payload in device memory. Padding is not written. Enqueues. */
fusco_status fusco_cuda_unfused_dispatch(fusco_cuda_unfused *unfused, const fusco_dispatch_call *call,
                                         fusco_error *error);
/* Combine, back through the same blocks; the sums are made on the token's rank. Enqueues. */
fusco_status fusco_cuda_unfused_combine(fusco_cuda_unfused *unfused, const fusco_combine_call *call,
                                        fusco_error *error);

#ifdef __cplusplus
}
#endif
#endif
