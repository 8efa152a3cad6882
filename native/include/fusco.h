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
 * field. fusco_buffer, fusco_error and fusco_stats have no size: they never change.
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

/* Enumerations hold any int, in C++ as in C: a value without a name is refused, and is not undefined. */
#ifdef __cplusplus
#define FUSCO_ENUM : int
extern "C" {
#else
#define FUSCO_ENUM
#endif

#define FUSCO_VERSION_MAJOR 0
#define FUSCO_VERSION_MINOR 1
#define FUSCO_VERSION_PATCH 0

/** Version of the library at run time: major << 16 | minor << 8 | patch. */
uint32_t fusco_version(void);

/** Result of a call. The names without FUSCO_ are the error codes of the TypeScript API. */
typedef enum fusco_status FUSCO_ENUM {
  FUSCO_OK = 0,
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
  FUSCO_E_FORWARD = 34            /**< forwarding and distribution descriptors disagree */
} fusco_status;

/** "E_BUFFER" for FUSCO_E_BUFFER. Static string; "E_INTERNAL" for an unknown value, never NULL. */
const char *fusco_status_name(fusco_status status);

/** Details of a failed call. The library fills it on failure and leaves it unchanged on success. */
typedef struct fusco_error {
  fusco_status status;
  int32_t rank;      /**< rank at fault; -1: none */
  int64_t value;     /**< what was found; valid if has_limit is 1 */
  int64_t limit;     /**< what it was compared with; valid if has_limit is 1 */
  int32_t has_limit; /**< 0 or 1 */
  char path[64];     /**< place in the plan, such as "/ranks/3/entries/17"; "" if there is none */
  char message[256]; /**< one sentence in English, terminated by 0 */
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
  fusco_kernels kernels;
} fusco_context_options;

/**
 * Starts the threads of a context.
 *
 * @param[in]  options  NULL: all defaults
 * @param[out] context  destroy it with fusco_context_destroy
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  a value outside its range
 * @retval FUSCO_E_MEMORY  the threads cannot be started
 */
fusco_status fusco_context_create(const fusco_context_options *options, fusco_context **context,
                                  fusco_error *error);

/** Releases a context. Its plans stay valid: the threads end with the last plan. NULL is allowed. */
void fusco_context_destroy(fusco_context *context);

/** Threads of an exchange, including the calling thread; 0 for NULL. */
uint32_t fusco_context_threads(const fusco_context *context);

/** "avx2" or "portable"; "" for NULL. Static string. */
const char *fusco_context_kernels(const fusco_context *context);

typedef enum fusco_strategy FUSCO_ENUM {
  FUSCO_STRATEGY_FLAT = 0, /**< every row goes straight to its slot */
  FUSCO_STRATEGY_HIER = 1, /**< a row for another node goes once to a forwarder there */
  FUSCO_STRATEGY_AUTO = 2  /**< for planning only: the planner decides from the facts */
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
  void *data;
  uint64_t bytes;
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
 * @param[in]  context  keeps running as long as the plan exists
 * @param[in]  desc     the plan
 * @param[out] plan     destroy it with fusco_plan_destroy
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION         ranks_per_node or an enumeration is out of range
 * @retval FUSCO_E_RANKS          a shard belongs to another rank or another number of ranks
 * @retval FUSCO_E_LIMIT          beyond a limit of the format
 * @retval FUSCO_E_SHARD_LAYOUT   a section is outside its shard
 * @retval FUSCO_E_SHARD_HEAD     counts of a shard contradict its head or another shard
 * @retval FUSCO_E_SEGMENT_BOUNDS a slot is outside its expert's block
 * @retval FUSCO_E_ENTRY          a slot is written twice or never
 * @retval FUSCO_E_BACKEND        this backend cannot execute such a plan
 */
fusco_status fusco_plan_create(fusco_context *context, const fusco_plan_desc *desc, fusco_plan **plan,
                               fusco_error *error);

/** Releases a plan. NULL is allowed. */
void fusco_plan_destroy(fusco_plan *plan);

/** Approximate bytes of host memory that the plan occupies; 0 for NULL. */
uint64_t fusco_plan_bytes(const fusco_plan *plan);
/** Number of ranks; 0 for NULL. */
uint32_t fusco_plan_ranks(const fusco_plan *plan);
/** Experts per token; 0 for NULL. */
uint32_t fusco_plan_topk(const fusco_plan *plan);
/** Tokens of a source rank; 0 for a rank outside the group. */
uint32_t fusco_plan_tokens(const fusco_plan *plan, uint32_t rank);
/** Rows of a rank's receive buffer, padding included; 0 for a rank outside the group. */
uint32_t fusco_plan_recv_rows(const fusco_plan *plan, uint32_t rank);

typedef enum fusco_dtype FUSCO_ENUM {
  FUSCO_DTYPE_BYTES = 0, /**< opaque; can be dispatched, not computed with */
  FUSCO_DTYPE_F32 = 1,
  FUSCO_DTYPE_F16 = 2,
  FUSCO_DTYPE_BF16 = 3,
  FUSCO_DTYPE_FP8 = 4 /**< e4m3; can be dispatched, not computed with */
} fusco_dtype;

/** What an exchange did. Bytes are payload bytes: each source row once, each slot once, without padding. */
typedef struct fusco_stats {
  uint64_t bytes_read;
  uint64_t bytes_written;
  uint64_t rows;        /**< slots written by a dispatch, or read by a combine */
  uint64_t nanoseconds; /**< duration; each backend says what it includes */
  uint64_t started;     /**< nanoseconds on CLOCK_MONOTONIC at the start; 0: unknown */
} fusco_stats;

/** Whether a payload has one row per token or one per entry. */
typedef enum fusco_per FUSCO_ENUM { FUSCO_PER_TOKEN = 0, FUSCO_PER_ENTRY = 1 } fusco_per;

/** One array that a dispatch moves. */
typedef struct fusco_payload {
  uint32_t struct_size; /**< sizeof(fusco_payload): also the distance between elements of an array */
  fusco_per per;
  fusco_dtype dtype;  /**< matters only if the call scales */
  uint64_t row_bytes; /**< 1..16777216 */
  /** in, [ranks]: [tokens, row_bytes], or [tokens, topk, row_bytes] with FUSCO_PER_ENTRY. */
  const fusco_buffer *from;
  const fusco_buffer *to; /**< out, [ranks]: [recv rows, row_bytes]; padding rows become zero */
} fusco_payload;

typedef struct fusco_dispatch_call {
  uint32_t struct_size; /**< sizeof(fusco_dispatch_call) */
  uint32_t payload_count;
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
 * @param[in]  call   buffers; no destination may overlap a source or another destination
 * @param[out] stats  may be NULL; nanoseconds is the duration of the call
 * @param[out] error  may be NULL
 * @retval FUSCO_E_OPTION  a row size or an enumeration is out of range
 * @retval FUSCO_E_BUFFER  a buffer is too small or overlaps another one; nothing was written
 * @retval FUSCO_E_DTYPE   the call scales a payload that has no floating-point dtype
 */
fusco_status fusco_dispatch(fusco_plan *plan, const fusco_dispatch_call *call, fusco_stats *stats,
                            fusco_error *error);

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
 * @param[in]  call   buffers; no output may overlap an input
 * @param[out] stats  may be NULL
 * @param[out] error  may be NULL
 * @retval FUSCO_E_OPTION  a row size or an enumeration is out of range
 * @retval FUSCO_E_BUFFER  a buffer is too small or overlaps another one; nothing was written
 * @retval FUSCO_E_DTYPE   not a floating-point dtype, or a row is no whole number of elements
 */
fusco_status fusco_combine(fusco_plan *plan, const fusco_combine_call *call, fusco_stats *stats,
                           fusco_error *error);

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
 * Parameters and errors as fusco_combine.
 */
fusco_status fusco_weight_gradient(fusco_plan *plan, const fusco_weight_gradient_call *call,
                                   fusco_stats *stats, fusco_error *error);

/**
 * @name Row operations
 * What a layer computes on one rank's rows next to its exchanges. All backends give the same bits: float32,
 * one rounding per operation, never fused, in the stated order; a NaN is stored as the canonical quiet NaN.
 * Synchronous. No buffer may overlap another one.
 * @{
 */

typedef struct fusco_fp8_call {
  uint32_t struct_size; /**< sizeof(fusco_fp8_call) */
  fusco_dtype dtype;    /**< of the values: F32, F16 or BF16 */
  uint64_t rows;
  uint64_t hidden;     /**< elements of a row; a row of values has 1..16777216 bytes */
  fusco_buffer values; /**< [rows, hidden]: in for quantize, out for dequantize */
  fusco_buffer codes;  /**< u8 [rows, hidden], e4m3 (finite kind; NaN is 0x7f) */
  fusco_buffer scales; /**< f32 [rows, ceil(hidden / 128)] */
} fusco_fp8_call;

/**
 * Quantizes rows. For each 128 elements of a row, with a = max(largest magnitude, 1e-4): scale = a / 448,
 * code = e4m3(value * (448 / a)), rounded to nearest even. A NaN makes its block's scale and codes NaN.
 *
 * @retval FUSCO_E_OPTION  a size is out of range
 * @retval FUSCO_E_BUFFER  a buffer is too small or overlaps another one
 * @retval FUSCO_E_DTYPE   dtype is not F32, F16 or BF16
 */
fusco_status fusco_fp8_quantize(fusco_context *context, const fusco_fp8_call *call, fusco_error *error);

/** value = code * scale, rounded once to the dtype. Errors as fusco_fp8_quantize. */
fusco_status fusco_fp8_dequantize(fusco_context *context, const fusco_fp8_call *call, fusco_error *error);

typedef enum fusco_score FUSCO_ENUM { FUSCO_SCORE_SOFTMAX = 0, FUSCO_SCORE_SIGMOID = 1 } fusco_score;

/** What an expert group is ranked by: its best expert, or the sum of its two best experts. */
typedef enum fusco_group_score FUSCO_ENUM { FUSCO_GROUP_MAX = 0, FUSCO_GROUP_TOP2 = 1 } fusco_group_score;

typedef struct fusco_gate_options {
  uint32_t struct_size; /**< sizeof(fusco_gate_options) */
  uint32_t experts;     /**< 1..65535 */
  uint32_t topk;        /**< 1..256 */
  fusco_score score;
  uint32_t groups;     /**< expert groups; divides experts; 1: none */
  uint32_t group_topk; /**< 1..groups; the selected groups must hold at least topk experts */
  fusco_group_score group_score;
  int32_t normalize; /**< 0 or 1 */
  float scale;
} fusco_gate_options;

typedef struct fusco_gate_call {
  uint32_t struct_size; /**< sizeof(fusco_gate_call) */
  const fusco_gate_options *options;
  uint64_t tokens;
  fusco_buffer logits;  /**< in: f32 [tokens, experts] */
  fusco_buffer bias;    /**< in: f32 [experts], or empty; added to the scores for selection only */
  fusco_buffer ids;     /**< out: i32 [tokens, topk] */
  fusco_buffer weights; /**< out: f32 [tokens, topk] */
  fusco_buffer scores;  /**< out: f32 [tokens, experts] */
} fusco_gate_call;

/**
 * Selects topk experts per token. Scores of all experts; then the best expert groups, then the best experts
 * in them. Ties go to the lower id; a NaN ranks below everything. The weights are the scores of the selected
 * experts, divided by (their sum in ascending k, starting at +0, + 1e-20) if normalized, times scale.
 * Softmax: e^(x - max) / sum, with the sum in 32 lanes as in fusco_weight_gradient. Sigmoid: 1 / (1 + e^-x).
 *
 * @retval FUSCO_E_OPTION  an option is out of range
 * @retval FUSCO_E_BUFFER  a buffer is too small or overlaps another one
 */
fusco_status fusco_gate(fusco_context *context, const fusco_gate_call *call, fusco_error *error);

typedef struct fusco_gate_backward_call {
  uint32_t struct_size; /**< sizeof(fusco_gate_backward_call) */
  const fusco_gate_options *options;
  uint64_t tokens;
  fusco_buffer ids;              /**< in: i32 [tokens, topk], as fusco_gate wrote them */
  fusco_buffer scores;           /**< in: f32 [tokens, experts], as fusco_gate wrote them */
  fusco_buffer weights_gradient; /**< in: f32 [tokens, topk] */
  fusco_buffer logits_gradient;  /**< out: f32 [tokens, experts] */
} fusco_gate_backward_call;

/**
 * Gradient of the logits. The selection of experts has no gradient.
 *
 * @retval FUSCO_E_OPTION  an option or an id is out of range
 * @retval FUSCO_E_BUFFER  a buffer is too small or overlaps another one
 */
fusco_status fusco_gate_backward(fusco_context *context, const fusco_gate_backward_call *call,
                                 fusco_error *error);
/** @} */

/**
 * @name Planning
 * One rank's shard from its ids and the facts, byte for byte the shard that the WebAssembly planner makes.
 * Declared for version 0.2; in this version each function returns FUSCO_E_BACKEND.
 * @{
 */

/** Which rank of a node forwards, in hierarchical plans. */
typedef enum fusco_balance FUSCO_ENUM {
  FUSCO_BALANCE_BEST = 0,   /**< the best of the three rules below, by max(sent, received) inter-node rows */
  FUSCO_BALANCE_STATIC = 1, /**< ranks with the same index in their nodes */
  FUSCO_BALANCE_ROTATE = 2, /**< ranks sorted by rows sent, rotated by node */
  FUSCO_BALANCE_LPT = 3     /**< the rank with the most rows joins the rail group with the fewest */
} fusco_balance;

/** How rows choose among the instances of a replicated expert. */
typedef enum fusco_replicas FUSCO_ENUM {
  FUSCO_REPLICAS_QUOTA_1 = 0, /**< integer quotas per (source rank, expert, instance), from all counts */
  FUSCO_REPLICAS_LOCAL = 1    /**< the local rank; else the local node; else (token + source rank) % count */
} fusco_replicas;

/** Options of a plan; the same on all ranks. */
typedef struct fusco_plan_options {
  uint32_t struct_size;      /**< sizeof(fusco_plan_options) */
  uint32_t experts;          /**< 1..65535 */
  uint32_t ranks;            /**< 1..4096 */
  uint32_t ranks_per_node;   /**< divides ranks; 0: the largest divisor up to 8 */
  uint32_t topk;             /**< 1..256 */
  uint32_t hidden;           /**< elements of a row, for slice sizes and reports; 0: 7168 */
  fusco_dtype dtype;         /**< nominal dtype of dispatched rows */
  fusco_dtype combine_dtype; /**< nominal dtype of combined rows; BYTES: as dtype, BF16 for FP8 */
  uint32_t align;            /**< rows to which each block is padded; 0: 1 */
  uint32_t capacity;         /**< most rows of an instance; 0: no limit */
  fusco_strategy strategy;   /**< AUTO is refused by planning on the device */
  fusco_balance balance;     /**< hierarchical plans only */
  fusco_partial partial;     /**< hierarchical plans only */
  fusco_sum sum;             /**< hierarchical plans only */
  fusco_replicas replicas;   /**< matters only if an expert has several instances */
  uint32_t slice_rows;       /**< rows of a slice; 0: 1 MiB of rows */
  uint32_t tile_tokens;      /**< tokens of a tile of the store order; 0: no store order */
  /** NULL: contiguous blocks, owner(e) = e * ranks / experts. Else [experts + 1]: the ranks of expert e are
   * placement_ranks[placement_offsets[e]] to placement_ranks[placement_offsets[e + 1] - 1], ascending. */
  const uint32_t *placement_offsets;
  const uint16_t *placement_ranks; /**< [placement_offsets[experts]] */
} fusco_plan_options;

typedef enum fusco_id_dtype FUSCO_ENUM {
  FUSCO_ID_I32 = 0,
  FUSCO_ID_I64 = 1,
  FUSCO_ID_I16 = 2,
  FUSCO_ID_U16 = 3,
  FUSCO_ID_I8 = 4,
  FUSCO_ID_U8 = 5,
  FUSCO_ID_U32 = 6,
  FUSCO_ID_U64 = 7
} fusco_id_dtype;

/** One rank's top-k expert ids. */
typedef struct fusco_ids {
  uint32_t struct_size; /**< sizeof(fusco_ids): also the distance between elements of an array */
  fusco_id_dtype dtype;
  uint32_t tokens;
  uint32_t topk;
  const void *data; /**< [tokens, topk], contiguous, aligned to its element; -1: masked */
} fusco_ids;

typedef struct fusco_planner fusco_planner; /**< options with their placement, ready to plan */

/**
 * Checks options and makes a planner. The arrays of `options` are copied.
 *
 * @retval FUSCO_E_OPTION     an option is out of range
 * @retval FUSCO_E_PLACEMENT  the placement names a rank outside the group, or a rank twice for an expert
 * @retval FUSCO_E_LIMIT      more than 65535 instances
 */
fusco_status fusco_planner_create(const fusco_plan_options *options, fusco_planner **planner,
                                  fusco_error *error);
/** Releases a planner. NULL is allowed. */
void fusco_planner_destroy(fusco_planner *planner);

/** What a planner needs of the caller. */
typedef struct fusco_planner_info {
  uint32_t struct_size;       /**< sizeof(fusco_planner_info) */
  uint32_t instances;         /**< instances of the placement */
  uint32_t counts;            /**< counts of one rank in the first gather, u32 each */
  uint32_t second_counts;     /**< counts of one rank in the second gather; 0: none is needed */
  uint8_t options_digest[32]; /**< SHA-256 of the options; ranks compare it before they plan */
} fusco_planner_info;

fusco_status fusco_planner_describe(const fusco_planner *planner, fusco_planner_info *info,
                                    fusco_error *error);

/**
 * First facts of a rank: its rows per expert.
 *
 * @param[in]  planner  the planner
 * @param[in]  rank     0..ranks - 1
 * @param[in]  ids      host memory
 * @param[out] counts   u32 [info.counts]
 * @retval FUSCO_E_ROUTING_SHAPE      the table's topk is not the one of the options
 * @retval FUSCO_E_ROUTING_ID         an id is out of range; error.path names token and k
 * @retval FUSCO_E_ROUTING_DUPLICATE  an expert occurs twice in a token; error.path names token and k
 */
fusco_status fusco_planner_count(const fusco_planner *planner, uint32_t rank, const fusco_ids *ids,
                                 uint32_t *counts, fusco_error *error);

/**
 * Second facts of a rank, if info.second_counts is not 0: its rows per node after quotas and capacity.
 *
 * @param[in]  counts         u32 [ranks, info.counts], all ranks' first facts
 * @param[out] second_counts  u32 [info.second_counts]
 */
fusco_status fusco_planner_count_again(const fusco_planner *planner, uint32_t rank, const fusco_ids *ids,
                                       const uint32_t *counts, uint32_t *second_counts, fusco_error *error);

/**
 * Writes a rank's shard.
 *
 * @param[in]     counts         u32 [ranks, info.counts]
 * @param[in]     second_counts  u32 [ranks, info.second_counts]; NULL if 0
 * @param[in,out] shard          host memory; in: the capacity in bytes; out: the bytes written. `data` NULL
 *                               only asks for the bytes
 * @retval FUSCO_E_BUFFER  the shard needs more bytes: error.value
 * @retval FUSCO_E_LIMIT   beyond a limit of the format
 */
fusco_status fusco_planner_shard(const fusco_planner *planner, uint32_t rank, const fusco_ids *ids,
                                 const uint32_t *counts, const uint32_t *second_counts, fusco_buffer *shard,
                                 fusco_error *error);
/** @} */

/**
 * @name Plan files
 * Whole plan files: read and verified, or written. Declared for version 0.2; in this version each function
 * returns FUSCO_E_BACKEND.
 * @{
 */

typedef struct fusco_plan_file fusco_plan_file; /**< a plan that was read and verified; immutable */

/**
 * Reads and verifies a plan file. Any bytes may be given.
 *
 * @param[in]  path   UTF-8
 * @param[out] file   close it with fusco_plan_file_close
 * @retval FUSCO_E_FILE_NOT_FOUND, FUSCO_E_FILE_READ  the file cannot be read
 * @retval FUSCO_E_PLAN_*, FUSCO_E_SHARD_*, FUSCO_E_SEGMENT_BOUNDS, FUSCO_E_RUN_TABLE, FUSCO_E_ENTRY,
 *         FUSCO_E_STREAM, FUSCO_E_SLICE, FUSCO_E_FORWARD, FUSCO_E_LIMIT  the file is no valid plan;
 * error.path names the place
 */
fusco_status fusco_plan_file_open(const char *path, fusco_plan_file **file, fusco_error *error);

/** As fusco_plan_file_open, from `bytes` bytes of host memory, which are copied. */
fusco_status fusco_plan_file_parse(const void *data, uint64_t bytes, fusco_plan_file **file,
                                   fusco_error *error);

/** Releases a plan file, and with it all that was borrowed from it. NULL is allowed. */
void fusco_plan_file_close(fusco_plan_file *file);

/** Contents of a plan file. Pointers are borrowed from the file. */
typedef struct fusco_plan_file_info {
  uint32_t struct_size;              /**< sizeof(fusco_plan_file_info) */
  const fusco_plan_options *options; /**< strategy is never AUTO */
  const uint16_t *rail_groups;       /**< [ranks]; NULL for flat plans */
  const fusco_buffer *shards;        /**< [ranks] */
  uint8_t plan_id[32];               /**< SHA-256 */
} fusco_plan_file_info;

fusco_status fusco_plan_file_describe(const fusco_plan_file *file, fusco_plan_file_info *info,
                                      fusco_error *error);

/**
 * Plans the routing again and compares it with the file.
 *
 * @param[in] ids  [ranks], host memory
 * @retval FUSCO_E_ENTRY  the file is not the plan of this routing; error names rank and entry
 */
fusco_status fusco_plan_file_check_routing(const fusco_plan_file *file, const fusco_ids *ids,
                                           fusco_error *error);

/**
 * Writes a plan file, under a temporary name that is renamed at the end.
 *
 * @param[in]  path     UTF-8; an existing file is replaced
 * @param[in]  info     options, rail groups and shards; plan_id is ignored
 * @param[out] plan_id  32 bytes; may be NULL
 * @retval FUSCO_E_FILE_WRITE  the file cannot be written; nothing is left behind
 */
fusco_status fusco_plan_file_write(const char *path, const fusco_plan_file_info *info, uint8_t plan_id[32],
                                   fusco_error *error);
/** @} */

#ifdef __cplusplus
}
#endif
#endif
