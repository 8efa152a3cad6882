/**
 * @file
 * Planning in native code, on the CPU and on GPUs, and plan files.
 *
 * Planning of one rank on the CPU; planning on GPUs, of one process or of a process for each GPU, and
 * exchanges along such plans; and plan files. Without CUDA the functions that plan on a device return
 * FUSCO_E_BACKEND.
 *
 * The conventions of fusco.h, fusco_cuda.h and fusco_nccl.h apply. The WebAssembly planner defines what a
 * plan is: the functions of this header make the same bytes.
 */
#ifndef FUSCO_PLANNING_H
#define FUSCO_PLANNING_H

#include "fusco_nccl.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * @name Planning
 * One rank's shard from its ids and the facts, byte for byte the shard that the WebAssembly planner makes.
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
  fusco_strategy strategy;   /**< planning on the device and audits refuse AUTO */
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
  /** Most rows that a rank may receive, padding included: planning fails with FUSCO_E_MAX_ROWS if one would
   * receive more. Not part of the plan. 0: no bound. Planning on the device takes the bound of its limits. */
  uint32_t max_rows;
  /** Ranks of one machine, for AUTO, which assumes fast links inside a machine; read for no other strategy. A
   * multiple of ranks_per_node that divides ranks. Not part of the plan. 0: ranks_per_node. */
  uint32_t ranks_per_host;
} fusco_plan_options;

/** Integer type of expert ids. */
typedef enum fusco_id_dtype FUSCO_ENUM {
  FUSCO_ID_I32 = 0, /**< signed, 32 bits */
  FUSCO_ID_I64 = 1, /**< signed, 64 bits */
  FUSCO_ID_I16 = 2, /**< signed, 16 bits */
  FUSCO_ID_U16 = 3, /**< unsigned, 16 bits; cannot be masked */
  FUSCO_ID_I8 = 4,  /**< signed, 8 bits */
  FUSCO_ID_U8 = 5,  /**< unsigned, 8 bits; cannot be masked */
  FUSCO_ID_U32 = 6, /**< unsigned, 32 bits; cannot be masked */
  FUSCO_ID_U64 = 7  /**< unsigned, 64 bits; cannot be masked */
} fusco_id_dtype;

/** One rank's top-k expert ids. */
typedef struct fusco_ids {
  uint32_t struct_size; /**< sizeof(fusco_ids): also the distance between elements of an array */
  fusco_id_dtype dtype; /**< of data */
  uint32_t tokens;      /**< number of tokens of the rank */
  uint32_t topk;        /**< ids of a token; that of the options */
  const void *data;     /**< [tokens, topk], contiguous, aligned to its element; -1: masked */
} fusco_ids;

typedef struct fusco_planner fusco_planner; /**< options with their placement, ready to plan */

/**
 * Checks options and makes a planner.
 *
 * @param[in]  options  host memory; copied, with the arrays that it points to
 * @param[out] planner  destroy it with fusco_planner_destroy; unchanged after a failure
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION     an option is out of range
 * @retval FUSCO_E_PLACEMENT  the placement names a rank outside the group, or a rank twice for an expert
 * @retval FUSCO_E_LIMIT      more than 65535 instances
 */
fusco_status fusco_planner_create(const fusco_plan_options *options, fusco_planner **planner,
                                  fusco_error *error);

/**
 * Releases a planner.
 *
 * @param[in] planner  NULL is allowed
 */
void fusco_planner_destroy(fusco_planner *planner);

/** What a planner needs of the caller. */
typedef struct fusco_planner_info {
  uint32_t struct_size; /**< sizeof(fusco_planner_info) */
  uint32_t instances;   /**< instances of the placement */
  /** Counts of one rank in the first gather, u32 each: its entries per instance, or per expert under QUOTA_1
   * with replicas; and behind them its rows per node, and per rank if AUTO may choose once per rank, if the
   * strategy needs those and they depend on neither a capacity nor quotas. */
  uint32_t counts;
  uint32_t second_counts;     /**< counts of one rank in the second gather; 0: none is needed */
  uint8_t options_digest[32]; /**< SHA-256 of the options; ranks compare it before they plan */
} fusco_planner_info;

/**
 * Says how large the facts of a rank are.
 *
 * @param[in]     planner  the planner
 * @param[in,out] info     host memory, with its struct_size
 * @param[out]    error    may be NULL
 * @retval FUSCO_E_OPTION  an argument is NULL, or struct_size is 0
 */
fusco_status fusco_planner_describe(const fusco_planner *planner, fusco_planner_info *info,
                                    fusco_error *error);

/**
 * First facts of a rank: its rows before the capacity.
 *
 * @param[in]  planner  the planner; several threads may count at the same time
 * @param[in]  rank     0..ranks - 1
 * @param[in]  ids      of this rank, host memory
 * @param[out] counts   u32 [info.counts], host memory
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION             there is no such rank
 * @retval FUSCO_E_BUFFER             ids are not aligned to their element
 * @retval FUSCO_E_LIMIT              more entries than the format allows
 * @retval FUSCO_E_ROUTING_SHAPE      the table's topk is not the one of the options
 * @retval FUSCO_E_ROUTING_DTYPE      ids.dtype has no name in fusco_id_dtype
 * @retval FUSCO_E_ROUTING_ID         an id is out of range; error.path names token and k
 * @retval FUSCO_E_ROUTING_DUPLICATE  an expert occurs twice in a token; error.path names token and k
 */
fusco_status fusco_planner_count(const fusco_planner *planner, uint32_t rank, const fusco_ids *ids,
                                 uint32_t *counts, fusco_error *error);

/**
 * Second facts of a rank, if info.second_counts is not 0: its rows per node after quotas and capacity, and
 * per rank if AUTO may choose once per rank.
 *
 * @param[in]  planner        the planner
 * @param[in]  rank           0..ranks - 1
 * @param[in]  ids            of this rank, as in fusco_planner_count
 * @param[in]  counts         u32 [ranks, info.counts], host memory: the first facts of all ranks
 * @param[out] second_counts  u32 [info.second_counts], host memory
 * @param[out] error          may be NULL
 * @retval FUSCO_E_FACTS     counts contradict the ids or each other
 * @retval FUSCO_E_MAX_ROWS  a rank would receive more than options.max_rows
 * @retval other             as fusco_planner_count
 */
fusco_status fusco_planner_count_again(const fusco_planner *planner, uint32_t rank, const fusco_ids *ids,
                                       const uint32_t *counts, uint32_t *second_counts, fusco_error *error);

/** What the facts decide, with the same result on all ranks. */
typedef struct fusco_decision {
  uint32_t struct_size;    /**< sizeof(fusco_decision) */
  fusco_strategy strategy; /**< that of the options, or what AUTO chose */
  fusco_balance rule;      /**< the rule that assigned the rail groups, never BEST; BEST for flat plans */
  uint32_t ranks_per_node; /**< ranks of a node of the plan: those of the options, or 1 for once per rank */
  char reason[256];        /**< why AUTO chose the strategy, ends with 0; empty for other strategies */
} fusco_decision;

/**
 * Decides who forwards. AUTO chooses among a flat plan, a hierarchical one, and, without replicas, a
 * hierarchical one with one rank per node (once per rank): the one whose busiest rank is the least busy. A
 * plan file of such a plan is written with the strategy and ranks_per_node of the decision.
 *
 * @param[in]     planner        the planner
 * @param[in]     counts         u32 [ranks, info.counts], host memory
 * @param[in]     second_counts  u32 [ranks, info.second_counts], host memory; NULL if info.second_counts is
 *                               0
 * @param[in,out] decision       host memory, with its struct_size
 * @param[out]    rail_groups    [ranks], host memory: rail group of each rank; unchanged for flat plans, for
 *                               which it may be NULL
 * @param[out]    error          may be NULL
 * @retval FUSCO_E_OPTION  a required argument is NULL, or struct_size is 0
 */
fusco_status fusco_planner_decide(const fusco_planner *planner, const uint32_t *counts,
                                  const uint32_t *second_counts, fusco_decision *decision,
                                  uint16_t *rail_groups, fusco_error *error);

/**
 * Writes a rank's shard.
 *
 * @param[in]     planner        the planner
 * @param[in]     rank           0..ranks - 1
 * @param[in]     ids            of this rank, as in fusco_planner_count
 * @param[in]     counts         u32 [ranks, info.counts], host memory
 * @param[in]     second_counts  u32 [ranks, info.second_counts], host memory; NULL if info.second_counts is
 *                               0
 * @param[in,out] shard          host memory, aligned to 4 bytes; in: the capacity in bytes; out: the bytes
 *                               written. `data` NULL only asks for the bytes, without looking at the ids.
 *                               After a failure its contents are undefined
 * @param[out]    error          may be NULL
 * @retval FUSCO_E_BUFFER  the shard needs more bytes: error.value; or it is misaligned
 * @retval FUSCO_E_LIMIT   beyond a limit of the format
 * @retval FUSCO_E_MAX_ROWS  a rank would receive more than options.max_rows
 * @retval FUSCO_E_FACTS   counts contradict the ids or each other
 * @retval other           as fusco_planner_count
 */
fusco_status fusco_planner_shard(const fusco_planner *planner, uint32_t rank, const fusco_ids *ids,
                                 const uint32_t *counts, const uint32_t *second_counts, fusco_buffer *shard,
                                 fusco_error *error);
/** @} */

/**
 * @name Plan files
 * Whole plan files: read and verified, or written.
 * @{
 */

typedef struct fusco_plan_file fusco_plan_file; /**< a plan that was read and verified; immutable */

/**
 * Reads and verifies a plan file. Any bytes may be given.
 *
 * @param[in]  path   UTF-8
 * @param[out] file   close it with fusco_plan_file_close; unchanged after a failure
 * @param[out] error  may be NULL
 * @retval FUSCO_E_FILE_NOT_FOUND  there is no such file
 * @retval FUSCO_E_FILE_READ       the file cannot be read
 * @retval other                   FUSCO_E_PLAN_*, FUSCO_E_SHARD_*, FUSCO_E_SEGMENT_BOUNDS,
 *                                 FUSCO_E_RUN_TABLE, FUSCO_E_ENTRY, FUSCO_E_STREAM, FUSCO_E_SLICE,
 *                                 FUSCO_E_FORWARD, FUSCO_E_LIMIT: the file is no valid plan; error.path
 *                                 names the place
 */
fusco_status fusco_plan_file_open(const char *path, fusco_plan_file **file, fusco_error *error);

/**
 * Verifies the bytes of a plan file.
 *
 * @param[in]  data   `bytes` bytes of host memory, which are copied
 * @param[in]  bytes  length of the file
 * @param[out] file   close it with fusco_plan_file_close; unchanged after a failure
 * @param[out] error  may be NULL
 * @retval other  as fusco_plan_file_open, except FUSCO_E_FILE_NOT_FOUND and FUSCO_E_FILE_READ
 */
fusco_status fusco_plan_file_parse(const void *data, uint64_t bytes, fusco_plan_file **file,
                                   fusco_error *error);

/**
 * Releases a plan file, and with it all that was borrowed from it.
 *
 * @param[in] file  NULL is allowed
 */
void fusco_plan_file_close(fusco_plan_file *file);

/** Contents of a plan file. Pointers are borrowed from the file. */
typedef struct fusco_plan_file_info {
  uint32_t struct_size;              /**< sizeof(fusco_plan_file_info) */
  const fusco_plan_options *options; /**< strategy is never AUTO */
  const uint16_t *rail_groups;       /**< [ranks]; NULL for flat plans */
  const fusco_buffer *shards;        /**< [ranks] */
  uint8_t plan_id[32];               /**< SHA-256 */
  fusco_balance rule;                /**< that assigned the rail groups, never BEST; BEST for flat plans */
  const char *reason;                /**< why AUTO chose the strategy, UTF-8; NULL is written as "" */
} fusco_plan_file_info;

/**
 * Gives access to the contents of a plan file. Several threads may read a file at the same time.
 *
 * @param[in]     file   the file
 * @param[in,out] info   host memory, with its struct_size; its pointers are valid until the file is closed
 * @param[out]    error  may be NULL
 * @retval FUSCO_E_OPTION  an argument is NULL, or struct_size is 0
 */
fusco_status fusco_plan_file_describe(const fusco_plan_file *file, fusco_plan_file_info *info,
                                      fusco_error *error);

/**
 * Plans the routing again and compares it with the file.
 *
 * @param[in]  file   the file
 * @param[in]  ids    [ranks], host memory
 * @param[out] error  may be NULL
 * @retval FUSCO_E_ENTRY  the file is not the plan of this routing; error names rank and, if instances differ,
 *                        entry
 * @retval other          as fusco_planner_count
 */
fusco_status fusco_plan_file_check_routing(const fusco_plan_file *file, const fusco_ids *ids,
                                           fusco_error *error);

/**
 * Writes a plan file, under a temporary name that is renamed at the end.
 *
 * @param[in]  path     UTF-8; an existing file is replaced
 * @param[in]  info     options, rule, rail groups, reason and shards; plan_id is ignored; read during the
 * call only
 * @param[out] plan_id  32 bytes; may be NULL
 * @param[out] error    may be NULL
 * @retval FUSCO_E_FILE_WRITE  the file cannot be written; nothing is left behind
 * @retval other               as fusco_plan_file_open: the contents are no valid plan
 */
fusco_status fusco_plan_file_write(const char *path, const fusco_plan_file_info *info, uint8_t plan_id[32],
                                   fusco_error *error);
/** @} */

/**
 * @name Planning on the device
 * From ids in device memory to a plan in a plan buffer of the caller, without the host: counts, facts, slots,
 * forwarding and the receive side. The shard is byte for byte the one of fusco_planner_shard. A plan buffer
 * is self-contained: it holds all that dispatch, combine and both gradients of this rank need, and no host
 * state refers to it, so that several can be alive. Ranks that share a device have their tables joined before
 * each exchange, in memory of the planner.
 *
 * Exchanges along such plans are those of fusco_cuda.h and fusco_nccl.h. Bad ids are masked. Memory that
 * ranks share, such as landing rows, is sized by the limits: a one-pass combine takes up to max_tokens *
 * min(topk, ranks of other devices) rows of each rank. What calls are checked against:
 *
 * - tokens: those of the ids; of an attached plan the host does not know them, so that the smallest buffer of
 *   the call says how many there are, which must be those of the ids;
 * - received rows: with max_recv_rows, that many. Without: those that a status call on this plan has
 *   returned; before the first one, as many as the smallest buffer has, which must be enough; and in a
 *   capture all that can occur.
 *
 * In reports `rows` is 0, and bytes count the rows of tokens only: the host does not know the other ones.
 * @{
 */

/** Upper bounds that fix the layout of plan buffers; the same on all ranks. */
typedef struct fusco_cuda_plan_limits {
  uint32_t struct_size; /**< sizeof(fusco_cuda_plan_limits) */
  uint32_t max_tokens;  /**< of a rank */
  /** Rows of a rank's receive buffer. Slots at or beyond it behave as dropped when executed and are counted;
   * the plan does not change. 0: every row that can occur. */
  uint32_t max_recv_rows;
} fusco_cuda_plan_limits;

/**
 * Bytes of one rank's plan buffer. Needs no GPU.
 *
 * @param[in]  options  strategy must not be AUTO; host memory
 * @param[in]  limits   host memory
 * @param[out] bytes    device memory, to be aligned to 256 bytes
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  an option is out of range, or strategy is AUTO
 * @retval FUSCO_E_LIMIT   beyond a limit of the format
 */
fusco_status fusco_cuda_plan_buffer_bytes(const fusco_plan_options *options,
                                          const fusco_cuda_plan_limits *limits, uint64_t *bytes,
                                          fusco_error *error);

typedef struct fusco_cuda_planner fusco_cuda_planner; /**< options and limits, with tables on the devices */

/**
 * Makes a planner. Strategy and balance rule are fixed from here on, because a captured graph cannot change
 * them. Waits for its uploads.
 *
 * @param[in]  context  outlives the planner
 * @param[in]  options  copied
 * @param[in]  limits   copied
 * @param[out] planner  destroy it with fusco_cuda_planner_destroy; unchanged after a failure
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION   strategy is AUTO, options.ranks differs from the context's, or out of range
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_planner_create(fusco_cuda_context *context, const fusco_plan_options *options,
                                       const fusco_cuda_plan_limits *limits, fusco_cuda_planner **planner,
                                       fusco_error *error);

/**
 * Waits for the planning in flight, and releases a planner. Plan buffers that it filled stay usable by their
 * plans. It must outlive graphs in which another library has captured its planning; those of
 * fusco_cuda_capture_begin keep what they need.
 *
 * @param[in] planner  NULL is allowed
 */
void fusco_cuda_planner_destroy(fusco_cuda_planner *planner);

/** Ids and plan buffers of all ranks. */
typedef struct fusco_cuda_plan_call {
  uint32_t struct_size;        /**< sizeof(fusco_cuda_plan_call) */
  const fusco_ids *ids;        /**< in, [ranks]: data is device memory; topk as in the options */
  const fusco_buffer *buffers; /**< out, [ranks]: plan buffers, device memory */
} fusco_cuda_plan_call;

/**
 * Enqueues planning on the ranks' streams and attaches the plan buffers. The devices of the context wait for
 * one another between the parts of planning, on their streams. It can be captured in a graph, whose launches
 * plan whatever ids are there; the number of tokens is that of the capture.
 *
 * Bad ids (out of range, or twice in a token) never cause an access out of bounds. Such entries are treated
 * as masked (of an expert named twice, the lowest k stays), and the error is returned by
 * fusco_cuda_plan_status and by fusco_cuda_plan_shard.
 *
 * @param[in]  planner  the planner
 * @param[in]  call     the struct is read during the call only; its device memory until the plan is
 *                      destroyed
 * @param[out] plan     use it with the exchanges of fusco_cuda.h; destroy it with fusco_cuda_plan_destroy,
 *                      which leaves the plan buffers alone
 * @param[out] error    may be NULL
 * @retval FUSCO_E_BUFFER   a plan buffer is too small or misaligned
 * @retval FUSCO_E_LIMIT    more tokens than max_tokens
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_plan_on_device(fusco_cuda_planner *planner, const fusco_cuda_plan_call *call,
                                       fusco_cuda_plan **plan, fusco_error *error);

/**
 * Attaches plan buffers that fusco_cuda_plan_on_device filled before, for example in a backward pass.
 * Enqueues.
 *
 * @param[in]  planner  a planner with the options and limits of the one that filled them
 * @param[in]  buffers  [ranks], device memory; alive until the plan is destroyed
 * @param[out] plan     as in fusco_cuda_plan_on_device
 * @param[out] error    may be NULL
 * @retval FUSCO_E_BUFFER   a plan buffer is too small or misaligned
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_plan_attach(fusco_cuda_planner *planner, const fusco_buffer *buffers,
                                    fusco_cuda_plan **plan, fusco_error *error);

/** Device memory of a plan that grouped matrix products read; borrowed from the plan buffer. */
typedef struct fusco_cuda_plan_view {
  uint32_t struct_size;           /**< sizeof(fusco_cuda_plan_view) */
  uint32_t local_instances;       /**< experts of the rank */
  const uint32_t *expert_counts;  /**< u32 [local_instances], clipped to max_recv_rows */
  const uint32_t *expert_offsets; /**< u32 [local_instances + 1], clipped to max_recv_rows */
  const uint32_t *recv_rows;      /**< u32 [1]: rows of the receive buffer, not clipped */
  const uint32_t *overflow_rows;  /**< u32 [1]: rows at or beyond max_recv_rows */
} fusco_cuda_plan_view;

/**
 * Gives addresses in a plan buffer, without waiting. Their contents are complete when planning is.
 *
 * @param[in]     plan   a plan of a plan buffer
 * @param[in]     rank   0..ranks - 1
 * @param[in,out] view   host memory, with its struct_size; its pointers are valid as long as the plan buffer
 * @param[out]    error  may be NULL
 * @retval FUSCO_E_OPTION  there is no such rank, or the plan has no plan buffer
 */
fusco_status fusco_cuda_plan_describe(const fusco_cuda_plan *plan, uint32_t rank, fusco_cuda_plan_view *view,
                                      fusco_error *error);

/**
 * Waits for planning on the rank's stream and reports its outcome.
 *
 * @param[in]  plan       a plan of a plan buffer
 * @param[in]  rank       0..ranks - 1
 * @param[out] recv_rows  host memory; rows of the rank's receive buffer; may be NULL
 * @param[out] error      may be NULL
 * @retval FUSCO_E_OPTION             there is no such rank, or the plan has no plan buffer
 * @retval FUSCO_E_ROUTING_ID         an id is out of range; error.path names token and k
 * @retval FUSCO_E_ROUTING_DUPLICATE  an expert occurs twice in a token; error.path names token and k
 */
fusco_status fusco_cuda_plan_status(fusco_cuda_plan *plan, uint32_t rank, uint32_t *recv_rows,
                                    fusco_error *error);

/**
 * Waits, and packs the canonical shard of a rank into host memory.
 *
 * @param[in]     plan   a plan of a plan buffer
 * @param[in]     rank   0..ranks - 1
 * @param[in,out] shard  as in fusco_planner_shard
 * @param[out]    error  may be NULL
 * @retval FUSCO_E_BUFFER  the shard needs more bytes: error.value
 * @retval other           as fusco_cuda_plan_status
 */
fusco_status fusco_cuda_plan_shard(fusco_cuda_plan *plan, uint32_t rank, fusco_buffer *shard,
                                   fusco_error *error);
/** @} */

/**
 * @name Planning on the device, one process per rank
 * As above, for the local rank. If all ranks are on one machine, facts travel through memory that they share;
 * planning and exchanges enqueue on the stream of the local rank and can be captured, after one call outside
 * of the capture has set memory aside. Plan buffers and ids may be any device memory; for the buffers of
 * exchanges the rules of fusco_nccl.h apply.
 *
 * **Across machines** planning enqueues as well, and facts travel by ncclAllGather. NCCL's counts are values
 * of the host: behind planning the plan buffer is copied to host memory, asynchronously. The first exchange
 * along a plan waits for that copy, makes the tables of exchanges from it, and reports what it read back
 * (fusco_nccl_report.readback_bytes); it is collective, as all exchanges are. Exchanges are those of uploaded
 * plans: they block until all rows are in place, rows are never padded, and plans and exchanges cannot be
 * captured (FUSCO_E_BACKEND). Until the first exchange fusco_nccl_plan_bytes gives the plan buffer only.
 * @{
 */

typedef struct fusco_nccl_planner fusco_nccl_planner; /**< options and limits, with tables on the device */

/**
 * Makes a planner. Collective: ranks compare their options and limits.
 *
 * @param[in]  group    outlives the planner
 * @param[in]  call     identity of the call
 * @param[in]  options  copied
 * @param[in]  limits   copied
 * @param[out] planner  destroy it with fusco_nccl_planner_destroy; unchanged after a failure
 * @param[out] error    may be NULL
 * @retval FUSCO_E_PEER_TIMEOUT   a rank did not arrive before the deadline
 * @retval FUSCO_E_PEER_MISMATCH  options or limits differ between ranks
 * @retval FUSCO_E_BACKEND        a node of the plan spans machines, or an error of NCCL or the driver
 * @retval FUSCO_E_OPTION         the local rank's stream is captured
 * @retval other                  as fusco_cuda_planner_create
 */
fusco_status fusco_nccl_planner_create(fusco_nccl_group *group, const fusco_nccl_call *call,
                                       const fusco_plan_options *options,
                                       const fusco_cuda_plan_limits *limits, fusco_nccl_planner **planner,
                                       fusco_error *error);

/**
 * Waits for the planning in flight, and releases a planner. Not collective.
 *
 * @param[in] planner  NULL is allowed
 */
void fusco_nccl_planner_destroy(fusco_nccl_planner *planner);

/**
 * Enqueues planning on the local rank's stream. Collective.
 *
 * @param[in]  planner    the planner
 * @param[in]  call       identity of the call
 * @param[in]  plan_call  of the local rank: each array has one element
 * @param[out] plan       use it with the exchanges of fusco_nccl.h; destroy it with fusco_nccl_plan_destroy,
 *                        which leaves the plan buffer alone
 * @param[out] error      may be NULL
 * @retval FUSCO_E_PEER_TIMEOUT   a rank did not arrive before the deadline
 * @retval FUSCO_E_PEER_MISMATCH  a rank makes another call
 * @retval FUSCO_E_BACKEND        the stream of a group on several machines is captured, or a driver's error
 * @retval other                  as fusco_cuda_plan_on_device
 */
fusco_status fusco_nccl_plan_on_device(fusco_nccl_planner *planner, const fusco_nccl_call *call,
                                       const fusco_cuda_plan_call *plan_call, fusco_nccl_plan **plan,
                                       fusco_error *error);

/**
 * As fusco_cuda_plan_attach, for the local rank. Not collective.
 *
 * @param[in]  planner  the planner
 * @param[in]  buffer   one plan buffer, device memory; alive until the plan is destroyed
 * @param[out] plan     as in fusco_nccl_plan_on_device
 * @param[out] error    may be NULL
 * @retval other  as fusco_cuda_plan_attach
 */
fusco_status fusco_nccl_plan_attach(fusco_nccl_planner *planner, const fusco_buffer *buffer,
                                    fusco_nccl_plan **plan, fusco_error *error);

/**
 * As fusco_cuda_plan_describe, for the local rank. Not collective.
 *
 * @param[in]     plan   a plan of a plan buffer
 * @param[in,out] view   host memory, with its struct_size; its pointers are valid as long as the plan buffer
 * @param[out]    error  may be NULL
 * @retval other  as fusco_cuda_plan_describe
 */
fusco_status fusco_nccl_plan_describe(const fusco_nccl_plan *plan, fusco_cuda_plan_view *view,
                                      fusco_error *error);

/**
 * As fusco_cuda_plan_status, for the local rank: waits, for at most the deadline. Not collective.
 *
 * @param[in]  plan       a plan of a plan buffer
 * @param[out] recv_rows  host memory; rows of the local rank's receive buffer; may be NULL
 * @param[out] error      may be NULL
 * @retval FUSCO_E_OPTION        the plan has no plan buffer, or the local rank's stream is captured
 * @retval FUSCO_E_PEER_TIMEOUT  planning waits for a rank that did not arrive before the deadline
 * @retval other                 as fusco_cuda_plan_status
 */
fusco_status fusco_nccl_plan_status(fusco_nccl_plan *plan, uint32_t *recv_rows, fusco_error *error);

/**
 * As fusco_cuda_plan_shard, for the local rank: waits, for at most the deadline. Not collective.
 *
 * @param[in]     plan   a plan of a plan buffer
 * @param[in,out] shard  as in fusco_planner_shard
 * @param[out]    error  may be NULL
 * @retval other  as fusco_nccl_plan_status; FUSCO_E_BUFFER as fusco_cuda_plan_shard
 */
fusco_status fusco_nccl_plan_shard(fusco_nccl_plan *plan, fusco_buffer *shard, fusco_error *error);
/** @} */

#ifdef __cplusplus
}
#endif
#endif
