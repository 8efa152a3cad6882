/* The pipeline that the fused exchange on the GPU is measured against. Not part of the library. */
#ifndef FUSCO_CUDA_BENCH_H
#define FUSCO_CUDA_BENCH_H

#include "fusco_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fusco_cuda_unfused fusco_cuda_unfused;

/* Makes its tables and two buffers of all rows, for rows of whole 16 bytes and ranks on one device. E_OPTION,
 * E_MEMORY. */
fusco_status fusco_cuda_unfused_create(fusco_cuda_plan *plan, uint64_t row_bytes,
                                       fusco_cuda_unfused **unfused, fusco_error *error);
void fusco_cuda_unfused_destroy(fusco_cuda_unfused *unfused);
/* Pack, device copies, permute: one per-token payload. Padding is left alone. Enqueues. */
fusco_status fusco_cuda_unfused_dispatch(fusco_cuda_unfused *unfused, const fusco_buffer *from,
                                         const fusco_buffer *to, fusco_error *error);
/* Permute, device copies, add up at home. */
fusco_status fusco_cuda_unfused_combine(fusco_cuda_unfused *unfused, const fusco_combine_call *call,
                                        fusco_error *error);

#ifdef __cplusplus
}
#endif
#endif
