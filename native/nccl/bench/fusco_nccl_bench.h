/* The pipeline that fusion replaces, over the same NCCL communicator. Not part of the library: only the addon
 * fusco_bench.node contains it. */
#ifndef FUSCO_NCCL_BENCH_H
#define FUSCO_NCCL_BENCH_H

#include "fusco_nccl.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fusco_nccl_unfused fusco_nccl_unfused;

/* For a group in which every rank is alone on its machine, a flat plan, and `row_bytes` a multiple of 16. Its
 * buffers are made once. It keeps what it needs of the plan. E_BACKEND, E_MEMORY. */
fusco_status fusco_nccl_unfused_create(fusco_nccl_plan *plan, uint64_t row_bytes,
                                       fusco_nccl_unfused **unfused, fusco_error *error);
void fusco_nccl_unfused_destroy(fusco_nccl_unfused *unfused);
/* Packs all rows by destination, sends each peer its block in one NCCL group, unpacks into expert order. */
fusco_status fusco_nccl_unfused_dispatch(fusco_nccl_unfused *unfused, const fusco_nccl_call *id,
                                         const fusco_buffer *from, const fusco_buffer *to, fusco_stats *stats,
                                         fusco_error *error);
/* Permutes back, sends back, adds on the token's rank. */
fusco_status fusco_nccl_unfused_combine(fusco_nccl_unfused *unfused, const fusco_nccl_call *id,
                                        const fusco_combine_call *call, fusco_stats *stats,
                                        fusco_error *error);

#ifdef __cplusplus
}
#endif
#endif
