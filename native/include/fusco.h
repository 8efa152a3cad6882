/*
 * FUSCO's native executor: dispatch and combine of a Mixture-of-Experts layer along a plan.
 *
 * Plain C. Handles are opaque, every call returns a status, nothing throws, and no type of Node or CUDA
 * appears. Nothing here plans: the shards of a plan come from the planner, and every bound in them is checked
 * again.
 *
 * Words (rank, token, topk, entry, row, slot, instance) are those of the design page. "Per rank" arrays have
 * one element for each rank of the group, because the host backend runs all ranks in one process.
 *
 * Readiness. Every exchange is synchronous: at entry all sources must be produced and all destinations free
 * (the edge "ready"), and at return every row is in place and visible to the calling thread (the edge
 * "done"). No memory of the caller is touched before the call or after it.
 *
 * Threads. A context runs one exchange at a time; calls from several threads are safe and take turns. A plan
 * may be used by several threads. Destroying a handle while a call on it runs is an error of the caller.
 *
 * Steady state. An exchange allocates nothing once the context has seen a call of the same size.
 */
#ifndef FUSCO_H
#define FUSCO_H

#include <stddef.h>
#include <stdint.h>

/* Enumerations of the interface hold any int, in C++ as in C: a caller may be wrong, and a value without a
 * name is then refused like any other that is out of range. */
#ifdef __cplusplus
#define FUSCO_ENUM : int
extern "C" {
#else
#define FUSCO_ENUM
#endif

#define FUSCO_VERSION_MAJOR 0
#define FUSCO_VERSION_MINOR 1
#define FUSCO_VERSION_PATCH 0

/* The library's version at run time: major << 16 | minor << 8 | patch. */
uint32_t fusco_version(void);

/* What went wrong. The names, without FUSCO_, are the codes of the TypeScript side. */
typedef enum fusco_status FUSCO_ENUM {
  FUSCO_OK = 0,
  FUSCO_E_OPTION = 1,         /* an argument outside its range */
  FUSCO_E_RANKS = 2,          /* shards and group disagree about the ranks */
  FUSCO_E_LIMIT = 3,          /* beyond a limit of the plan format */
  FUSCO_E_SHARD_LAYOUT = 4,   /* a shard's sections do not lie inside it, in order */
  FUSCO_E_SHARD_HEAD = 5,     /* a shard contradicts itself or the other shards */
  FUSCO_E_SEGMENT_BOUNDS = 6, /* an entry's row leaves its expert's block or its buffer */
  FUSCO_E_ENTRY = 7,          /* a row is written twice or never */
  FUSCO_E_BUFFER = 8,         /* a buffer is missing, too small, or overlaps another */
  FUSCO_E_DTYPE = 9,          /* a dtype that the exchange cannot compute with */
  FUSCO_E_BACKEND = 10,       /* the backend cannot execute such a plan */
  FUSCO_E_MEMORY = 11,        /* out of memory */
  FUSCO_E_CLOSED = 12,        /* a handle was closed before */
  FUSCO_E_INTERNAL = 13,
  FUSCO_E_PEER_TIMEOUT = 14, /* ranks that did not come, or went */
  FUSCO_E_PEER_MISMATCH = 15 /* ranks that do something else */
} fusco_status;

/* "E_BUFFER" for FUSCO_E_BUFFER; never NULL. */
const char *fusco_status_name(fusco_status status);

/* Filled by a failing call where the caller gives one; untouched on success. */
typedef struct fusco_error {
  fusco_status status;
  int32_t rank;  /* -1 where no rank is at fault */
  int64_t value; /* what was found; meaningful where has_limit is 1 */
  int64_t limit; /* what it was compared with */
  int32_t has_limit;
  char path[64]; /* place inside the plan, such as "/ranks/3/entries/17"; empty where there is none */
  char message[256];
} fusco_error;

typedef struct fusco_context fusco_context;
typedef struct fusco_plan fusco_plan;

typedef enum fusco_kernels FUSCO_ENUM {
  FUSCO_KERNELS_AUTO = 0,    /* the best that this processor has */
  FUSCO_KERNELS_PORTABLE = 1 /* plain C++; the results are the same bits */
} fusco_kernels;

/* Zero everywhere means the defaults. */
typedef struct fusco_context_options {
  uint32_t threads; /* 1..1024; 0: one for each processor that this process may use */
  /* Exchanges that write at least this many bytes use streaming stores, which bypass the caches. 0: the size
   * of the last-level cache; UINT64_MAX: never. */
  uint64_t stream_bytes;
  fusco_kernels kernels;
} fusco_context_options;

/* Starts the threads. `options` may be NULL. E_OPTION, E_MEMORY. */
fusco_status fusco_context_create(const fusco_context_options *options, fusco_context **context,
                                  fusco_error *error);
/* Plans of this context stay valid: the threads end with the last of them. NULL is allowed. */
void fusco_context_destroy(fusco_context *context);
/* Threads of an exchange, the calling one included. */
uint32_t fusco_context_threads(const fusco_context *context);
/* "avx2" or "portable". */
const char *fusco_context_kernels(const fusco_context *context);

typedef enum fusco_strategy FUSCO_ENUM { FUSCO_STRATEGY_FLAT = 0, FUSCO_STRATEGY_HIER = 1 } fusco_strategy;

/* Dtype of a node's partial sum in a hierarchical combine: rounded to the payload's dtype, or kept. */
typedef enum fusco_partial FUSCO_ENUM { FUSCO_PARTIAL_PAYLOAD = 0, FUSCO_PARTIAL_F32 = 1 } fusco_partial;

/* Bytes of the caller: `bytes` from `data`. `data` may be NULL only where nothing is needed. */
typedef struct fusco_buffer {
  void *data;
  uint64_t bytes;
} fusco_buffer;

/* A plan, as its shards: shards[r] holds the bytes of rank r's shard (layout: plan_layout.h). */
typedef struct fusco_plan_desc {
  uint32_t ranks;
  uint32_t ranks_per_node; /* divides ranks */
  fusco_strategy strategy;
  fusco_partial partial;      /* ignored by flat plans */
  const fusco_buffer *shards; /* [ranks] */
} fusco_plan_desc;

/*
 * Copies what an exchange needs and checks every bound on the way: any bytes may be given. The shards are not
 * read after the call. E_RANKS, E_LIMIT, E_SHARD_LAYOUT, E_SHARD_HEAD, E_SEGMENT_BOUNDS, E_ENTRY, E_BACKEND,
 * E_MEMORY.
 */
fusco_status fusco_plan_create(fusco_context *context, const fusco_plan_desc *desc, fusco_plan **plan,
                               fusco_error *error);
void fusco_plan_destroy(fusco_plan *plan);

/* Bytes of memory that the plan occupies, about. */
uint64_t fusco_plan_bytes(const fusco_plan *plan);
uint32_t fusco_plan_ranks(const fusco_plan *plan);
uint32_t fusco_plan_topk(const fusco_plan *plan);
/* Source rows of a rank; 0 for a rank outside the group. */
uint32_t fusco_plan_tokens(const fusco_plan *plan, uint32_t rank);
/* Rows of a rank's receive buffer, padding included; 0 for a rank outside the group. */
uint32_t fusco_plan_recv_rows(const fusco_plan *plan, uint32_t rank);

typedef enum fusco_dtype FUSCO_ENUM {
  FUSCO_DTYPE_BYTES = 0, /* opaque: can be dispatched, not computed with */
  FUSCO_DTYPE_F32 = 1,
  FUSCO_DTYPE_F16 = 2,
  FUSCO_DTYPE_BF16 = 3
} fusco_dtype;

/* What an exchange did. Bytes are those of payload rows: each source row once, each slot once, no padding. */
typedef struct fusco_stats {
  uint64_t bytes_read;
  uint64_t bytes_written;
  uint64_t rows; /* slots written (dispatch) or read */
  uint64_t nanoseconds;
  uint64_t started; /* nanoseconds on the steady clock (CLOCK_MONOTONIC) when it began; 0: unknown */
} fusco_stats;

typedef enum fusco_per FUSCO_ENUM { FUSCO_PER_TOKEN = 0, FUSCO_PER_ENTRY = 1 } fusco_per;

typedef struct fusco_payload {
  uint64_t row_bytes; /* 1..16777216 */
  fusco_per per;
  fusco_dtype dtype; /* matters only where the call scales */
  const fusco_buffer
      *from; /* [ranks]; [tokens, row_bytes], or [tokens, topk, row_bytes] with FUSCO_PER_ENTRY */
  const fusco_buffer *to; /* [ranks]; [recv rows, row_bytes]; padding rows become zero */
} fusco_payload;

typedef struct fusco_dispatch_call {
  const fusco_payload *payloads;
  uint32_t payload_count;
  /* NULL, or [ranks]; i32 [recv rows, 3]: (source rank, token, k) of every row, -1 in padding. */
  const fusco_buffer *origins;
  /* NULL, or [ranks]; f32 [tokens, topk]: copies of per-token payloads are multiplied by their entry's weight
   * in float32 and rounded once to the payload's dtype. This is the gradient of a weighted combine. */
  const fusco_buffer *scale;
} fusco_dispatch_call;

/*
 * Copies every token's row to the slots of its experts. No destination may overlap a source or another
 * destination. `stats` and `error` may be NULL. E_OPTION, E_BUFFER, E_DTYPE, E_MEMORY.
 */
fusco_status fusco_dispatch(fusco_plan *plan, const fusco_dispatch_call *call, fusco_stats *stats,
                            fusco_error *error);

typedef struct fusco_combine_call {
  fusco_dtype dtype;           /* F32, F16 or BF16 */
  uint64_t row_bytes;          /* a multiple of the dtype's size, 1..16777216 */
  const fusco_buffer *from;    /* [ranks]; [recv rows, row_bytes]; padding rows are not read */
  const fusco_buffer *to;      /* [ranks]; [tokens, row_bytes]; a token without entries becomes +0 */
  const fusco_buffer *weights; /* NULL: unweighted; or [ranks]; f32 [tokens, topk] */
} fusco_combine_call;

/*
 * to[t] = sum over ascending k of weights[t, k] * from[slot(t, k)]: float32 from +0, multiply then add, never
 * fused, one rounding to nearest even at the end. A hierarchical plan adds node by node: each node's partial
 * sum from +0 in ascending k, rounded to the partial dtype, then the partials in ascending node order from
 * +0. Subnormals are kept, a NaN result is the canonical quiet NaN. Masked and dropped entries contribute
 * nothing. E_OPTION, E_BUFFER, E_DTYPE, E_MEMORY.
 */
fusco_status fusco_combine(fusco_plan *plan, const fusco_combine_call *call, fusco_stats *stats,
                           fusco_error *error);

typedef struct fusco_weight_gradient_call {
  fusco_dtype dtype;                   /* F32, F16 or BF16 */
  uint64_t row_bytes;                  /* as in combine */
  const fusco_buffer *output_gradient; /* [ranks]; [tokens, row_bytes] */
  const fusco_buffer *from;            /* [ranks]; [recv rows, row_bytes]; the rows that combine read */
  const fusco_buffer *to;              /* [ranks]; f32 [tokens, topk]; 0 where masked or dropped */
} fusco_weight_gradient_call;

/*
 * to[t, k] = dot(output_gradient[t], from[slot(t, k)]) in 32 lanes: lane j adds elements j, j + 32, ... from
 * +0, then lanes are added pairwise at distance 16, 8, 4, 2, 1. E_OPTION, E_BUFFER, E_DTYPE, E_MEMORY.
 */
fusco_status fusco_weight_gradient(fusco_plan *plan, const fusco_weight_gradient_call *call,
                                   fusco_stats *stats, fusco_error *error);

/*
 * Work on one rank's rows that a layer needs around its exchanges. The results are the same bits on every
 * backend: float32, one rounding an operation, never fused, in the order that is stated; a NaN is stored as
 * the canonical quiet NaN. Buffers must not overlap.
 */

typedef struct fusco_fp8_call {
  fusco_dtype dtype; /* of the values: F32, F16 or BF16 */
  uint64_t rows;
  uint64_t hidden;     /* elements of one row; a row of values has 1..16777216 bytes */
  fusco_buffer values; /* [rows, hidden] */
  fusco_buffer codes;  /* u8 [rows, hidden], e4m3 (finite kind; NaN is 0x7f) */
  fusco_buffer scales; /* f32 [rows, ceil(hidden / 128)] */
} fusco_fp8_call;

/*
 * For every 128 elements of a row, a being their largest size or 1e-4: scale = a / 448,
 * code = e4m3(value * (448 / a)), rounded to nearest even. A NaN makes its block's scale and codes NaN.
 * E_OPTION, E_BUFFER, E_DTYPE.
 */
fusco_status fusco_fp8_quantize(fusco_context *context, const fusco_fp8_call *call, fusco_error *error);
/* value = code * scale, rounded once to the dtype. E_OPTION, E_BUFFER, E_DTYPE. */
fusco_status fusco_fp8_dequantize(fusco_context *context, const fusco_fp8_call *call, fusco_error *error);

typedef enum fusco_score FUSCO_ENUM { FUSCO_SCORE_SOFTMAX = 0, FUSCO_SCORE_SIGMOID = 1 } fusco_score;

/* What a group of experts is judged by: its best expert, or the sum of its two best. */
typedef enum fusco_group_score FUSCO_ENUM { FUSCO_GROUP_MAX = 0, FUSCO_GROUP_TOP2 = 1 } fusco_group_score;

typedef struct fusco_gate_options {
  uint32_t experts; /* 1..65535 */
  uint32_t topk;    /* 1..256 */
  fusco_score score;
  uint32_t groups;     /* divides experts; 1: no groups */
  uint32_t group_topk; /* 1..groups; topk experts must fit into so many groups */
  fusco_group_score group_score;
  int32_t normalize; /* 0 or 1 */
  float scale;
} fusco_gate_options;

typedef struct fusco_gate_call {
  fusco_gate_options options;
  uint64_t tokens;
  fusco_buffer logits;  /* f32 [tokens, experts] */
  fusco_buffer bias;    /* f32 [experts], or empty; added to the scores for choosing, not for weighting */
  fusco_buffer ids;     /* i32 [tokens, topk], written */
  fusco_buffer weights; /* f32 [tokens, topk], written */
  fusco_buffer scores;  /* f32 [tokens, experts], written */
} fusco_gate_call;

/*
 * Scores of all experts; the best groups, then the best experts in them, ties to the lower id, a NaN below
 * everything; the weights are the scores of the chosen experts, divided by (their sum in the order of k, from
 * +0, + 1e-20) if normalised, times scale. Softmax: e^(x - max) / sum, the sum in 32 lanes as in
 * fusco_weight_gradient. Sigmoid: 1 / (1 + e^-x). E_OPTION, E_BUFFER.
 */
fusco_status fusco_gate(fusco_context *context, const fusco_gate_call *call, fusco_error *error);

typedef struct fusco_gate_backward_call {
  fusco_gate_options options;
  uint64_t tokens;
  fusco_buffer ids;              /* i32 [tokens, topk], as fusco_gate wrote them */
  fusco_buffer scores;           /* f32 [tokens, experts], as fusco_gate wrote them */
  fusco_buffer weights_gradient; /* f32 [tokens, topk] */
  fusco_buffer logits_gradient;  /* f32 [tokens, experts], written */
} fusco_gate_backward_call;

/* The gradient of the logits; the choice of experts has none. E_OPTION (an id out of range), E_BUFFER. */
fusco_status fusco_gate_backward(fusco_context *context, const fusco_gate_backward_call *call,
                                 fusco_error *error);

#ifdef __cplusplus
}
#endif
#endif
