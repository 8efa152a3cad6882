/**
 * @file
 * FUSCO's native library: dispatch and combine of a Mixture-of-Experts layer along a plan.
 *
 * This header has the types that all parts share and the host backend, which runs all ranks of a group in one
 * process on the CPU. fusco_cuda.h has GPUs of one process, fusco_nccl.h has one process per rank.
 *
 * The interface is plain C. Handles are opaque, functions return a status, no exception crosses the
 * interface, and no type of Node.js, CUDA or NCCL appears in it. The terms (rank, token, topk, entry, row,
 * slot, instance) are defined in docs/glossary.md.
 *
 * **Arrays per rank.** `[ranks]` means one element for each rank of the group.
 *
 * **Memory.** All pointers of this header are host memory, unless stated otherwise. The caller owns every
 * buffer; the library does not touch it before a call, and not after the call has returned.
 *
 * **Struct sizes.** Structs that a caller fills, and structs that the library fills for a caller, start with
 * `struct_size`. The caller sets it to `sizeof` of the struct before each use; 0 is FUSCO_E_OPTION. A library
 * that knows more fields than the caller takes those as zero and does not write them. A library that knows
 * fewer fields refuses a struct in which an unknown field is not zero. Zero is the default of every optional
 * field. fusco_buffer, fusco_error, fusco_stats
 * and fusco_gate_options have no size: they never change.
 *
 * **Errors.** A function that fails returns a status other than FUSCO_OK and fills `error`, if given. Each
 * function lists its statuses; in addition, each one returns FUSCO_E_OPTION for a required pointer that is
 * NULL, FUSCO_E_MEMORY without memory, and FUSCO_E_INTERNAL after a defect of the library.
 *
 * **Threads.** Functions may be called from any thread. Calls on one context take turns. Destroying a handle
 * while another thread uses it is undefined.
 *
 * docs/format.md says what minor and major versions of the interface may change.
 */
#ifndef FUSCO_H
#define FUSCO_H

#include <stddef.h>
#include <stdint.h>

/** @def FUSCO_ENUM
 * Enumerations hold any int, in C++ as in C: a value without a name is refused, and is not undefined. */
#ifdef __cplusplus
#define FUSCO_ENUM : int
extern "C" {
#else
#define FUSCO_ENUM
#endif

/** Version of this header. Major and minor versions are independent of the version of the plan format. */
#define FUSCO_VERSION_MAJOR 0

/** See FUSCO_VERSION_MAJOR. */
#define FUSCO_VERSION_MINOR 1

/** See FUSCO_VERSION_MAJOR. */
#define FUSCO_VERSION_PATCH 0

/**
 * Version of the library at run time.
 *
 * @return major << 16 | minor << 8 | patch
 */
uint32_t fusco_version(void);

/** Result of a call. The names without FUSCO_ are the error codes of the TypeScript API. */
typedef enum fusco_status FUSCO_ENUM {
  FUSCO_OK = 0,                   /**< success */
  FUSCO_E_OPTION = 1,             /**< an argument or a field is missing or outside its range */
  FUSCO_E_RANKS = 2,              /**< the shards and the group disagree about the ranks */
  FUSCO_E_LIMIT = 3,              /**< beyond a limit of the plan format or of a capacity */
  FUSCO_E_SHARD_LAYOUT = 4,       /**< a section of a shard is outside the shard or out of order */
  FUSCO_E_SHARD_HEAD = 5,         /**< a shard contradicts itself or another shard */
  FUSCO_E_SEGMENT_BOUNDS = 6,     /**< a row is outside its expert's block or outside its buffer */
  FUSCO_E_ENTRY = 7,              /**< a row is written twice or never */
  FUSCO_E_BUFFER = 8,             /**< a buffer is missing, too small, misaligned, or overlaps another one */
  FUSCO_E_DTYPE = 9,              /**< the exchange cannot compute with this dtype */
  FUSCO_E_BACKEND = 10,           /**< this build, machine or backend cannot do it; the message says why */
  FUSCO_E_MEMORY = 11,            /**< out of memory; value is the number of bytes asked for, if known */
  FUSCO_E_CLOSED = 12,            /**< the handle was closed before */
  FUSCO_E_INTERNAL = 13,          /**< a defect of the library */
  FUSCO_E_PEER_TIMEOUT = 14,      /**< ranks did not arrive before the deadline, or ended */
  FUSCO_E_PEER_MISMATCH = 15,     /**< ranks make different calls, or plan with different options */
  FUSCO_E_PLACEMENT = 16,         /**< a placement names a rank outside the group, or a rank twice */
  FUSCO_E_ROUTING_SHAPE = 17,     /**< ids are not [tokens, topk] with the topk of the options */
  FUSCO_E_ROUTING_DTYPE = 18,     /**< ids are not integers of 8 to 64 bits */
  FUSCO_E_ROUTING_ID = 19,        /**< an id is neither -1 nor in [0, experts) */
  FUSCO_E_ROUTING_DUPLICATE = 20, /**< a token names an expert twice */
  FUSCO_E_FACTS = 21,             /**< facts contradict the ids or each other */
  FUSCO_E_FILE_NOT_FOUND = 22,    /**< there is no such file */
  FUSCO_E_FILE_READ = 23,         /**< the file cannot be read; the message has the system's reason */
  FUSCO_E_FILE_WRITE = 24,        /**< the file cannot be written; nothing is left behind */
  FUSCO_E_PLAN_MAGIC = 25,        /**< no plan file */
  FUSCO_E_PLAN_VERSION = 26,      /**< written by a version that this one cannot read */
  FUSCO_E_PLAN_TRUNCATED = 27,    /**< the file ends too early */
  FUSCO_E_PLAN_CANONICAL = 28,    /**< the file is not in canonical form */
  FUSCO_E_PLAN_HEADER = 29,       /**< the header is malformed or contradicts itself */
  FUSCO_E_PLAN_DIGEST = 30,       /**< a digest does not match the bytes */
  FUSCO_E_RUN_TABLE = 31,         /**< run tables of sender and receiver disagree */
  FUSCO_E_STREAM = 32,            /**< a send order does not hold each of its rows once, in order */
  FUSCO_E_SLICE = 33,             /**< slices do not cover the send orders once, in order */
  FUSCO_E_FORWARD = 34,           /**< forwarding and distribution descriptors disagree */
  FUSCO_E_MAX_ROWS = 35           /**< a rank would receive more rows than the options allow */
} fusco_status;

/**
 * Name of a status.
 *
 * @param[in] status  any value
 * @return "E_BUFFER" for FUSCO_E_BUFFER; "E_INTERNAL" for an unknown value. A static string, never NULL
 */
const char *fusco_status_name(fusco_status status);

/** Details of a failed call. The library fills it on failure and leaves it unchanged on success. */
typedef struct fusco_error {
  fusco_status status; /**< what the call returned */
  int32_t rank;        /**< rank at fault; -1: none */
  int64_t value;       /**< what was found; valid if has_limit is 1 */
  int64_t limit;       /**< what it was compared with; valid if has_limit is 1 */
  int32_t has_limit;   /**< 0 or 1 */
  char path[64];       /**< place in the plan, such as "/ranks/3/entries/17"; "" if there is none */
  char message[256];   /**< one sentence in English, terminated by 0 */
} fusco_error;

typedef struct fusco_context fusco_context; /**< threads and scratch memory of the host backend */
typedef struct fusco_plan fusco_plan;       /**< a checked plan of all ranks, for the host backend */

/** Set of CPU kernels. All sets give the same bits. */
typedef enum fusco_kernels FUSCO_ENUM {
  FUSCO_KERNELS_AUTO = 0,    /**< the fastest set that this processor supports */
  FUSCO_KERNELS_PORTABLE = 1 /**< plain C++ */
} fusco_kernels;

/** Options of a context. */
typedef struct fusco_context_options {
  uint32_t struct_size; /**< sizeof(fusco_context_options) */
  uint32_t threads;     /**< threads of an exchange, 1..1024; 0: one per processor of this process */
  /** An exchange that writes at least this many bytes uses non-temporal stores. 0: size of the last-level
   * cache; UINT64_MAX: never. */
  uint64_t nontemporal_bytes;
  fusco_kernels kernels; /**< AUTO by default */
} fusco_context_options;

/**
 * Starts the threads of a context.
 *
 * @param[in]  options  NULL: all defaults; read during the call only
 * @param[out] context  destroy it with fusco_context_destroy; unchanged after a failure
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  a value is outside its range
 * @retval FUSCO_E_MEMORY  the threads cannot be started
 */
fusco_status fusco_context_create(const fusco_context_options *options, fusco_context **context,
                                  fusco_error *error);

/**
 * Releases a context. Its plans stay valid: the threads end with the last plan.
 *
 * @param[in] context  NULL is allowed
 */
void fusco_context_destroy(fusco_context *context);

/**
 * Threads of an exchange, including the calling thread.
 *
 * @param[in] context  the context
 * @return 1..1024; 0 if context is NULL
 */
uint32_t fusco_context_threads(const fusco_context *context);

/**
 * The set of kernels that a context uses.
 *
 * @param[in] context  the context
 * @return "avx2" or "portable"; "" if context is NULL. A static string
 */
const char *fusco_context_kernels(const fusco_context *context);

/** How rows travel to other nodes. */
typedef enum fusco_strategy FUSCO_ENUM {
  FUSCO_STRATEGY_FLAT = 0, /**< every row goes straight to its slot */
  FUSCO_STRATEGY_HIER = 1, /**< a row for another node goes once to a forwarder there */
  FUSCO_STRATEGY_AUTO = 2  /**< an option of planning that the facts settle; no plan has it */
} fusco_strategy;

/** Dtype of a node's partial sum in the combine of a hierarchical plan. */
typedef enum fusco_partial FUSCO_ENUM {
  FUSCO_PARTIAL_PAYLOAD = 0, /**< rounded to the payload's dtype */
  FUSCO_PARTIAL_F32 = 1      /**< kept in float32 */
} fusco_partial;

/** Order of combine's additions; flat plans always add by token. */
typedef enum fusco_sum FUSCO_ENUM {
  FUSCO_SUM_NODE = 0, /**< one partial sum per node, then the partial sums in ascending node order */
  FUSCO_SUM_TOKEN = 1 /**< all rows of a token in ascending k: the same bits for any number of ranks */
} fusco_sum;

/** A buffer of the caller: `bytes` bytes at `data`. `data` may be NULL only where no byte is needed. */
typedef struct fusco_buffer {
  void *data;     /**< first byte */
  uint64_t bytes; /**< length; may be more than a call needs */
} fusco_buffer;

/** A plan of all ranks, as shards. */
typedef struct fusco_plan_desc {
  uint32_t struct_size;       /**< sizeof(fusco_plan_desc) */
  uint32_t ranks;             /**< 1..4096 */
  uint32_t ranks_per_node;    /**< divides ranks */
  fusco_strategy strategy;    /**< FLAT or HIER */
  fusco_partial partial;      /**< ignored for flat plans */
  fusco_sum sum;              /**< ignored for flat plans */
  const fusco_buffer *shards; /**< [ranks]; shards[r] holds rank r's shard (layout: plan_layout.h) */
} fusco_plan_desc;

/**
 * Checks the shards of a plan and copies what exchanges need. The shards may hold any bytes: every bound is
 * checked. They are not read after the call.
 *
 * @param[in]  context  its threads keep running as long as the plan exists
 * @param[in]  desc     the plan, in host memory; read during the call only
 * @param[out] plan     destroy it with fusco_plan_destroy; unchanged after a failure
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION          ranks_per_node or an enumeration is out of range
 * @retval FUSCO_E_RANKS           a shard belongs to another rank or another number of ranks
 * @retval FUSCO_E_LIMIT           beyond a limit of the format
 * @retval FUSCO_E_SHARD_LAYOUT    a section is outside its shard
 * @retval FUSCO_E_SHARD_HEAD      counts of a shard contradict its head or another shard
 * @retval FUSCO_E_SEGMENT_BOUNDS  a slot is outside its expert's block
 * @retval FUSCO_E_ENTRY           a slot is written twice or never
 * @retval FUSCO_E_BACKEND         this backend cannot execute such a plan
 */
fusco_status fusco_plan_create(fusco_context *context, const fusco_plan_desc *desc, fusco_plan **plan,
                               fusco_error *error);

/**
 * Releases a plan.
 *
 * @param[in] plan  NULL is allowed
 */
void fusco_plan_destroy(fusco_plan *plan);

/**
 * Host memory that a plan occupies.
 *
 * @param[in] plan  the plan
 * @return approximate bytes; 0 if plan is NULL
 */
uint64_t fusco_plan_bytes(const fusco_plan *plan);

/**
 * Number of ranks of a plan.
 *
 * @param[in] plan  the plan
 * @return 1..4096; 0 if plan is NULL
 */
uint32_t fusco_plan_ranks(const fusco_plan *plan);

/**
 * Experts per token of a plan.
 *
 * @param[in] plan  the plan
 * @return 1..256; 0 if plan is NULL
 */
uint32_t fusco_plan_topk(const fusco_plan *plan);

/**
 * Tokens of a source rank.
 *
 * @param[in] plan  the plan
 * @param[in] rank  0..ranks - 1
 * @return tokens; 0 for another rank, and if plan is NULL
 */
uint32_t fusco_plan_tokens(const fusco_plan *plan, uint32_t rank);

/**
 * Rows of a rank's receive buffer.
 *
 * @param[in] plan  the plan
 * @param[in] rank  0..ranks - 1
 * @return rows, padding included; 0 for another rank, and if plan is NULL
 */
uint32_t fusco_plan_recv_rows(const fusco_plan *plan, uint32_t rank);

/** Element type of a row. */
typedef enum fusco_dtype FUSCO_ENUM {
  FUSCO_DTYPE_BYTES = 0, /**< opaque; can be dispatched, not computed with */
  FUSCO_DTYPE_F32 = 1,   /**< IEEE binary32 */
  FUSCO_DTYPE_F16 = 2,   /**< IEEE binary16 */
  FUSCO_DTYPE_BF16 = 3,  /**< upper half of binary32 */
  FUSCO_DTYPE_FP8 = 4    /**< e4m3; can be dispatched, not computed with */
} fusco_dtype;

/** What an exchange did. Bytes are payload bytes: each source row once, each slot once, without padding. */
typedef struct fusco_stats {
  uint64_t bytes_read;    /**< bytes of source rows */
  uint64_t bytes_written; /**< bytes of destination rows */
  uint64_t rows;          /**< slots written by a dispatch, or read by a combine */
  uint64_t nanoseconds;   /**< duration; each backend says what it includes */
  uint64_t started;       /**< nanoseconds on CLOCK_MONOTONIC at the start; 0: unknown */
} fusco_stats;

/** Whether a payload has one row per token or one per entry. */
typedef enum fusco_per FUSCO_ENUM { FUSCO_PER_TOKEN = 0, FUSCO_PER_ENTRY = 1 } fusco_per;

/** One array that a dispatch moves. */
typedef struct fusco_payload {
  uint32_t struct_size; /**< sizeof(fusco_payload): also the distance between elements of an array */
  fusco_per per;        /**< rows of `from` */
  fusco_dtype dtype;    /**< matters only if the call scales */
  uint64_t row_bytes;   /**< 1..16777216 */
  /** in, [ranks]: [tokens, row_bytes], or [tokens, topk, row_bytes] with FUSCO_PER_ENTRY. */
  const fusco_buffer *from;
  const fusco_buffer *to; /**< out, [ranks]: [recv rows, row_bytes]; padding rows become zero */
} fusco_payload;

/** Buffers of a dispatch. */
typedef struct fusco_dispatch_call {
  uint32_t struct_size;          /**< sizeof(fusco_dispatch_call) */
  uint32_t payload_count;        /**< elements of payloads */
  const fusco_payload *payloads; /**< in, [payload_count] */
  /** out, NULL or [ranks]: i32 [recv rows, 3], (source rank, token, k) of every row; -1 in padding. */
  const fusco_buffer *origins;
  /** in, NULL or [ranks]: f32 [tokens, topk]. Copies of per-token payloads are multiplied by the weight of
   * their entry in float32 and rounded once to the payload's dtype. This is the gradient of a combine. */
  const fusco_buffer *scale;
} fusco_dispatch_call;

/**
 * Copies each token's row to the slots of its experts. Synchronous: sources must be complete at entry; all
 * rows are visible to the calling thread at return. Allocates nothing once the context has seen a call of
 * this size.
 *
 * @param[in]  plan   the plan
 * @param[in]  call   buffers, in host memory; no destination may overlap a source or another destination
 * @param[out] stats  may be NULL; nanoseconds is the duration of the call
 * @param[out] error  may be NULL
 * @retval FUSCO_E_OPTION  a row size or an enumeration is out of range
 * @retval FUSCO_E_BUFFER  a buffer is too small or overlaps another one; nothing was written
 * @retval FUSCO_E_DTYPE   the call scales a payload that has no floating-point dtype
 */
fusco_status fusco_dispatch(fusco_plan *plan, const fusco_dispatch_call *call, fusco_stats *stats,
                            fusco_error *error);

/** Buffers of a combine. */
typedef struct fusco_combine_call {
  uint32_t struct_size;        /**< sizeof(fusco_combine_call) */
  fusco_dtype dtype;           /**< F32, F16 or BF16 */
  uint64_t row_bytes;          /**< multiple of the dtype's size, 1..16777216 */
  const fusco_buffer *from;    /**< in, [ranks]: [recv rows, row_bytes]; padding rows are not read */
  const fusco_buffer *to;      /**< out, [ranks]: [tokens, row_bytes]; a token without entries becomes +0 */
  const fusco_buffer *weights; /**< in, [ranks]: f32 [tokens, topk]; NULL: unweighted */
} fusco_combine_call;

/**
 * to[t] = sum over k of weights[t, k] * from[slot(t, k)].
 *
 * Arithmetic: float32, starting at +0, ascending k, multiply, round, add, round; never a fused multiply-add;
 * one rounding to nearest even at the end. With FUSCO_SUM_NODE and a hierarchical plan each node's partial
 * sum starts at +0, adds in ascending k and is rounded to the partial dtype; then the partial sums are added
 * in ascending node order, starting at +0. Subnormals are kept. A NaN result is the canonical quiet NaN of
 * the dtype. Masked and dropped entries contribute nothing.
 *
 * Synchronous, as fusco_dispatch.
 *
 * @param[in]  plan   the plan
 * @param[in]  call   buffers, in host memory; no output may overlap an input or another output
 * @param[out] stats  may be NULL; nanoseconds is the duration of the call
 * @param[out] error  may be NULL
 * @retval FUSCO_E_OPTION  a row size or an enumeration is out of range
 * @retval FUSCO_E_BUFFER  a buffer is too small or overlaps another one; nothing was written
 * @retval FUSCO_E_DTYPE   not a floating-point dtype, or a row is no whole number of elements
 */
fusco_status fusco_combine(fusco_plan *plan, const fusco_combine_call *call, fusco_stats *stats,
                           fusco_error *error);

/** Buffers of a gradient of the weights. */
typedef struct fusco_weight_gradient_call {
  uint32_t struct_size;                /**< sizeof(fusco_weight_gradient_call) */
  fusco_dtype dtype;                   /**< F32, F16 or BF16 */
  uint64_t row_bytes;                  /**< as in fusco_combine_call */
  const fusco_buffer *output_gradient; /**< in, [ranks]: [tokens, row_bytes] */
  const fusco_buffer *from;            /**< in, [ranks]: [recv rows, row_bytes]; what combine read */
  const fusco_buffer *to;              /**< out, [ranks]: f32 [tokens, topk]; 0 if masked or dropped */
} fusco_weight_gradient_call;

/**
 * to[t, k] = dot(output_gradient[t], from[slot(t, k)]) in 32 lanes: lane j adds elements j, j + 32, ...
 * starting at +0, multiply, round, add, round; then lanes are added pairwise at distance 16, 8, 4, 2, 1.
 *
 * Synchronous, as fusco_dispatch.
 *
 * @param[in]  plan   the plan
 * @param[in]  call   buffers, in host memory; no output may overlap an input or another output
 * @param[out] stats  may be NULL; nanoseconds is the duration of the call
 * @param[out] error  may be NULL
 * @retval FUSCO_E_OPTION  as fusco_combine; likewise FUSCO_E_BUFFER and FUSCO_E_DTYPE
 */
fusco_status fusco_weight_gradient(fusco_plan *plan, const fusco_weight_gradient_call *call,
                                   fusco_stats *stats, fusco_error *error);

/** Buffers of a gradient of a weighted combine: of its rows and of its weights. */
typedef struct fusco_combine_gradient_call {
  uint32_t struct_size;                /**< sizeof(fusco_combine_gradient_call) */
  fusco_dtype dtype;                   /**< F32, F16 or BF16 */
  uint64_t row_bytes;                  /**< as in fusco_combine_call */
  const fusco_buffer *output_gradient; /**< in, [ranks]: [tokens, row_bytes] */
  const fusco_buffer *from;            /**< in, [ranks]: [recv rows, row_bytes]; what combine read */
  const fusco_buffer *weights;         /**< in, [ranks]: f32 [tokens, topk]; those that combine was given */
  const fusco_buffer *to;              /**< out, [ranks]: [recv rows, row_bytes]; padding rows become zero */
  /** out, [ranks]: f32 [tokens, topk]; 0 if masked or dropped. */
  const fusco_buffer *weights_gradient;
  /** out, NULL or [ranks]: as in fusco_dispatch_call. */
  const fusco_buffer *origins;
} fusco_combine_gradient_call;

/**
 * Both gradients of a combine in one call: to[slot(t, k)] = weights[t, k] * output_gradient[t] as a scaled
 * fusco_dispatch writes it, and weights_gradient[t, k] = dot(output_gradient[t], from[slot(t, k)]) as
 * fusco_weight_gradient does. The results have the same bits as those two calls.
 *
 * Synchronous, as fusco_dispatch.
 *
 * @param[in]  plan   the plan
 * @param[in]  call   buffers, in host memory; no output may overlap an input or another output
 * @param[out] stats  may be NULL; nanoseconds is the duration of the call
 * @param[out] error  may be NULL
 * @retval FUSCO_E_OPTION  as fusco_combine; likewise FUSCO_E_BUFFER and FUSCO_E_DTYPE
 */
fusco_status fusco_combine_gradient(fusco_plan *plan, const fusco_combine_gradient_call *call,
                                    fusco_stats *stats, fusco_error *error);

/**
 * @name Row operations
 * What a layer computes on one rank's rows next to its exchanges. All backends give the same bits: float32,
 * one rounding per operation, never fused, in the stated order; a NaN is stored as the canonical quiet NaN.
 * Synchronous. No buffer may overlap another one.
 * @{
 */

/** Values, codes and scales of a conversion to or from fp8. */
typedef struct fusco_fp8_call {
  uint32_t struct_size; /**< sizeof(fusco_fp8_call) */
  fusco_dtype dtype;    /**< of the values: F32, F16 or BF16 */
  uint64_t rows;        /**< number of rows; 0 is allowed */
  uint64_t hidden;      /**< elements of a row; a row of values has 1..16777216 bytes */
  fusco_buffer values;  /**< [rows, hidden]: in for quantize, out for dequantize */
  fusco_buffer codes;   /**< u8 [rows, hidden], e4m3 (finite kind; NaN is 0x7f) */
  fusco_buffer scales;  /**< f32 [rows, ceil(hidden / 128)] */
} fusco_fp8_call;

/**
 * Quantizes rows. For each 128 elements of a row, with a = max(largest magnitude, 1e-4): scale = a / 448,
 * code = e4m3(value * (448 / a)), rounded to nearest even. A NaN makes its block's scale and codes NaN.
 *
 * @param[in]  context  threads
 * @param[in]  call     in: values; out: codes and scales; all in host memory
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  a size is out of range
 * @retval FUSCO_E_BUFFER  a buffer is too small or overlaps another one
 * @retval FUSCO_E_DTYPE   dtype is not F32, F16 or BF16
 */
fusco_status fusco_fp8_quantize(fusco_context *context, const fusco_fp8_call *call, fusco_error *error);

/**
 * value = code * scale, rounded once to the dtype.
 *
 * @param[in]  context  threads
 * @param[in]  call     in: codes and scales; out: values; all in host memory
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  as fusco_fp8_quantize; likewise FUSCO_E_BUFFER and FUSCO_E_DTYPE
 */
fusco_status fusco_fp8_dequantize(fusco_context *context, const fusco_fp8_call *call, fusco_error *error);

/** How logits become scores. */
typedef enum fusco_score FUSCO_ENUM { FUSCO_SCORE_SOFTMAX = 0, FUSCO_SCORE_SIGMOID = 1 } fusco_score;

/** What an expert group is ranked by: its best expert, or the sum of its two best experts. */
typedef enum fusco_group_score FUSCO_ENUM { FUSCO_GROUP_MAX = 0, FUSCO_GROUP_TOP2 = 1 } fusco_group_score;

/** Options of a gate; this struct never changes. */
typedef struct fusco_gate_options {
  uint32_t experts;              /**< 1..65535 */
  uint32_t topk;                 /**< 1..256 */
  fusco_score score;             /**< softmax or sigmoid */
  uint32_t groups;               /**< expert groups; divides experts; 1: none */
  uint32_t group_topk;           /**< 1..groups; the selected groups must hold at least topk experts */
  fusco_group_score group_score; /**< only if groups is not 1 */
  int32_t normalize;             /**< 1: the weights of a token are divided by their sum; else 0 */
  float scale;                   /**< factor of the weights */
} fusco_gate_options;

/** Buffers of a gate. */
typedef struct fusco_gate_call {
  uint32_t struct_size;       /**< sizeof(fusco_gate_call) */
  fusco_gate_options options; /**< as in the struct */
  uint64_t tokens;            /**< number of tokens; 0 is allowed */
  fusco_buffer logits;        /**< in: f32 [tokens, experts] */
  fusco_buffer bias;          /**< in: f32 [experts], or empty; added to the scores for selection only */
  fusco_buffer ids;           /**< out: i32 [tokens, topk] */
  fusco_buffer weights;       /**< out: f32 [tokens, topk] */
  fusco_buffer scores;        /**< out: f32 [tokens, experts] */
} fusco_gate_call;

/**
 * Selects topk experts per token. Scores of all experts; then the best expert groups, then the best experts
 * in them. Ties go to the lower id; a NaN ranks below everything. The weights are the scores of the selected
 * experts, divided by (their sum in ascending k, starting at +0, + 1e-20) if normalized, times scale.
 * Softmax: e^(x - max) / sum, with the sum in 32 lanes as in fusco_weight_gradient. Sigmoid: 1 / (1 + e^-x).
 *
 * @param[in]  context  threads
 * @param[in]  call     options and buffers, in host memory
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  an option is out of range
 * @retval FUSCO_E_BUFFER  a buffer is too small or overlaps another one
 */
fusco_status fusco_gate(fusco_context *context, const fusco_gate_call *call, fusco_error *error);

/** Buffers of the gradient of a gate. */
typedef struct fusco_gate_backward_call {
  uint32_t struct_size;          /**< sizeof(fusco_gate_backward_call) */
  fusco_gate_options options;    /**< those of the fusco_gate call */
  uint64_t tokens;               /**< number of tokens; 0 is allowed */
  fusco_buffer ids;              /**< in: i32 [tokens, topk], as fusco_gate wrote them */
  fusco_buffer scores;           /**< in: f32 [tokens, experts], as fusco_gate wrote them */
  fusco_buffer weights_gradient; /**< in: f32 [tokens, topk] */
  fusco_buffer logits_gradient;  /**< out: f32 [tokens, experts] */
} fusco_gate_backward_call;

/**
 * Gradient of the logits. The selection of experts has no gradient.
 *
 * @param[in]  context  threads
 * @param[in]  call     options and buffers, in host memory
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  an option or an id is out of range
 * @retval FUSCO_E_BUFFER  a buffer is too small or overlaps another one
 */
fusco_status fusco_gate_backward(fusco_context *context, const fusco_gate_backward_call *call,
                                 fusco_error *error);
/** @} */

#ifdef __cplusplus
}

/** C++ only: a struct of the interface that is zero except for its struct_size. */
template <class T>
T fusco_sized() {
  T made{};
  made.struct_size = sizeof(T);
  return made;
}
#endif
#endif
