/**
 * @file
 * FUSCO with one process per rank, on any number of machines. If all ranks are on one machine, rows are
 * stored into their memory over CUDA IPC. In groups on several machines this holds for ranks of the same
 * machine (and, for hierarchical plans, of the same node); all other rows travel through NCCL, which is
 * opened at run time.
 *
 * The conventions of fusco.h and fusco_cuda.h apply, with these additions:
 *
 * **Buffers.** Calls take the buffers of the local rank: an array that fusco.h calls `[ranks]` has one
 * element.
 *
 * **Order.** All ranks of a group make the same calls in the same order. Each call has a number, which
 * ascends by one, and a digest of what the call does. Ranks of one machine compare the digests before any row
 * moves.
 *
 * **Streams.** If all ranks of a group are on one machine, exchanges enqueue on the stream of the local rank
 * (fusco_cuda_set_stream) and return. They send no message and call nothing that waits, so they can be
 * captured in a CUDA graph, and graph launches and other calls may alternate in any order that is the same on
 * all ranks. Two things block the first time: an allocation that the other ranks do not know
 * (fusco_nccl_register does it ahead), and rows that are longer than those of all exchanges before
 * (fusco_nccl_plan_desc.row_bytes); neither is possible in a capture. fusco_nccl_bytes.enqueues says whether
 * a plan is of this kind. All other exchanges block until all rows are in place, and cannot be captured.
 *
 * **Waiting.** No call and no kernel waits longer than the group's deadline. When it passes, or another
 * thread calls fusco_nccl_abort, the group is given up: the call in progress, or the next one, and
 * fusco_cuda_synchronize of its context return FUSCO_E_PEER_TIMEOUT. Its message names the late ranks, the
 * same on all ranks of the machine, and fusco_error.rank is the lowest of them; a rank that only waits for a
 * late one is not named. NCCL's communicator is aborted; kernels that wait for peers end; and later calls
 * move nothing. The buffers of exchanges in flight are undefined then. The process continues.
 *
 * **Threads.** All calls on a group, except fusco_nccl_abort, are made by one thread.
 */
#ifndef FUSCO_NCCL_H
#define FUSCO_NCCL_H

#include "fusco_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fusco_nccl_group fusco_nccl_group; /**< this process's membership of a group of ranks */
typedef struct fusco_nccl_plan fusco_nccl_plan;   /**< the local rank's part of a plan, in device memory */

/** Bytes of the id of a group. */
#define FUSCO_NCCL_ID_BYTES 128

/** The NCCL library of this process. */
typedef struct fusco_nccl_library {
  uint32_t struct_size; /**< sizeof(fusco_nccl_library) */
  uint32_t version;     /**< 10000 * major + 100 * minor + patch, as NCCL numbers versions */
  char path[512];       /**< the library that was opened */
} fusco_nccl_library;

/**
 * Opens NCCL, once for the process. A later call returns the library that the first one opened. Any thread
 * may
 * call it.
 *
 * @param[in]     path     UTF-8; NULL: FUSCO_NCCL_PATH of the environment, else libnccl.so.2
 * @param[in,out] library  what was opened; with its struct_size
 * @param[out]    error    may be NULL
 * @retval FUSCO_E_BACKEND  it cannot be opened (the message says where it was looked for), or it is older
 *                          than 2.19
 */
fusco_status fusco_nccl_open(const char *path, fusco_nccl_library *library, fusco_error *error);

/**
 * Makes the id of a new group. One rank calls it and sends the id to all others.
 *
 * @param[out] id     valid for one fusco_nccl_group_create on each rank
 * @param[out] error  may be NULL
 * @retval FUSCO_E_BACKEND  NCCL cannot be opened, or NCCL's error
 */
fusco_status fusco_nccl_unique_id(uint8_t id[FUSCO_NCCL_ID_BYTES], fusco_error *error);

/** What a rank needs to join a group. */
typedef struct fusco_nccl_group_desc {
  uint32_t struct_size;        /**< sizeof(fusco_nccl_group_desc) */
  uint32_t ranks;              /**< 1..4096 */
  uint32_t rank;               /**< the local rank, 0..ranks - 1 */
  uint32_t max_ctas;           /**< thread blocks that NCCL may use; 0: NCCL's default */
  fusco_cuda_context *context; /**< of one rank: the local rank's device; must outlive the group */
  /** [ranks]: ranks with equal numbers are on one machine and reach each other's device memory; at most 60 of
   * them per machine. */
  const uint32_t *machines;
  /** Name of POSIX shared memory for the ranks of this machine, such as "/fusco-1f3a": the same on these
   * ranks, never used before. May be NULL for a rank that is alone on its machine. */
  const char *mailbox;
  uint8_t id[FUSCO_NCCL_ID_BYTES]; /**< from fusco_nccl_unique_id */
  /** Least bytes per peer and round, if there are that many. A larger value means fewer, larger rounds. Must
   * be equal on all ranks, otherwise exchanges fail with FUSCO_E_PEER_MISMATCH or hang until the deadline. */
  uint64_t round_bytes;
  uint64_t deadline_ns; /**< of every call; at least 1000000 */
} fusco_nccl_group_desc;

/**
 * Joins a group. Collective: blocks until all ranks have joined, for at most the deadline.
 *
 * @param[in]  desc   read during the call only
 * @param[out] group  destroy it with fusco_nccl_group_destroy; unchanged after a failure
 * @param[out] error  may be NULL
 * @retval FUSCO_E_OPTION        a field is out of range
 * @retval FUSCO_E_RANKS         rank or ranks is out of range
 * @retval FUSCO_E_BACKEND       NCCL or the driver refused; the message has the reason
 * @retval FUSCO_E_PEER_TIMEOUT  a rank did not join before the deadline
 */
fusco_status fusco_nccl_group_create(const fusco_nccl_group_desc *desc, fusco_nccl_group **group,
                                     fusco_error *error);

/**
 * Ends the call in progress and all later ones with FUSCO_E_PEER_TIMEOUT. May be called from any thread.
 * Returns
 * at once; the thread in the call returns when it notices.
 *
 * @param[in] group  NULL is allowed; must not be destroyed meanwhile
 * @param[in] why    text for the errors' message, UTF-8; copied; NULL is allowed
 */
void fusco_nccl_abort(fusco_nccl_group *group, const char *why);

/**
 * Leaves the group and frees its memory. Its plans must be destroyed before. Waits for the work in flight,
 * and
 * up to 2 s for NCCL to end its communicator.
 *
 * @param[in] group  NULL is allowed
 */
void fusco_nccl_group_destroy(fusco_nccl_group *group);

/**
 * Reports what kernels of exchanges have recorded until now, without waiting for them. Every other call on
 * the group reports it as well. After such an error the group's exchanges move nothing, and the buffers of
 * the exchange that failed are undefined.
 *
 * @param[in]  group  the group
 * @param[out] error  may be NULL
 * @retval FUSCO_E_PEER_TIMEOUT   an exchange passed its deadline; the message names the late ranks
 * @retval FUSCO_E_PEER_MISMATCH  ranks made different calls
 */
fusco_status fusco_nccl_check(fusco_nccl_group *group, fusco_error *error);

/** Identity of a collective call. */
typedef struct fusco_nccl_call {
  uint32_t struct_size; /**< sizeof(fusco_nccl_call) */
  uint64_t number;      /**< ascends by one; the same on all ranks */
  uint64_t digest;      /**< of what the call does; the same on all ranks */
} fusco_nccl_call;

/**
 * Gathers bytes of all ranks: through shared memory if they are on one machine, otherwise by ncclAllGather.
 * Collective; blocks until all bytes are in place.
 *
 * @param[in]  group  the group
 * @param[in]  call   identity of the call
 * @param[in]  local  host memory, `bytes` bytes
 * @param[out] all    host memory, [ranks, bytes]
 * @param[in]  bytes  at most 64 MiB; the same on all ranks
 * @param[out] error  may be NULL
 * @retval FUSCO_E_LIMIT         more than 64 MiB
 * @retval FUSCO_E_BACKEND       NCCL's or the driver's error
 * @retval FUSCO_E_PEER_TIMEOUT  a rank did not arrive before the deadline
 * @retval FUSCO_E_PEER_MISMATCH on one machine: another rank gathers something else
 */
fusco_status fusco_nccl_all_gather(fusco_nccl_group *group, const fusco_nccl_call *call, const void *local,
                                   void *all, uint64_t bytes, fusco_error *error);

/**
 * Maps buffers into the other ranks of this machine ahead of their first exchange. Not collective: blocks
 * until the other ranks' libraries have mapped the allocations that the buffers are part of, whatever their
 * threads do. An exchange does the same with a buffer that it does not know; after that no call asks again.
 *
 * @param[in]  group    the group
 * @param[in]  buffers  [count], device memory of the local rank from cudaMalloc
 * @param[in]  count    any number; may differ between ranks
 * @param[out] error    may be NULL
 * @retval FUSCO_E_BUFFER        memory that does not come from cudaMalloc cannot be shared between processes
 * @retval FUSCO_E_LIMIT         more than 512 allocations of a rank are shared
 * @retval FUSCO_E_BACKEND       another rank cannot map the memory
 * @retval FUSCO_E_PEER_TIMEOUT  another rank did not map the memory before the deadline
 */
fusco_status fusco_nccl_register(fusco_nccl_group *group, const fusco_buffer *buffers, uint32_t count,
                                 fusco_error *error);

/**
 * Lets the other ranks of this machine unmap the allocations that the buffers are part of. Call it before
 * cudaFree, after the last exchange that used them is done: memory that others have mapped stays occupied.
 * The others unmap it when they next create a plan or leave the group. Memory of fusco_cuda_alloc needs no
 * such call.
 *
 * @param[in]  group    the group
 * @param[in]  buffers  [count], device memory of the local rank; those that are not shared are skipped
 * @param[in]  count    any number
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  an argument is NULL
 */
fusco_status fusco_nccl_deregister(fusco_nccl_group *group, const fusco_buffer *buffers, uint32_t count,
                                   fusco_error *error);

/** The local rank's part of a plan. */
typedef struct fusco_nccl_plan_desc {
  uint32_t struct_size;           /**< sizeof(fusco_nccl_plan_desc) */
  uint32_t ranks_per_node;        /**< the ranks of a node must be on one machine */
  fusco_strategy strategy;        /**< FLAT or HIER */
  fusco_partial partial;          /**< hierarchical plans only */
  fusco_sum sum;                  /**< hierarchical plans only */
  uint32_t slice_rows;            /**< of the plan; a round moves one or several slices to a peer */
  fusco_buffer shard;             /**< of the local rank; host memory, read during the call only */
  const uint16_t *rail_groups;    /**< [ranks]; hierarchical plans only */
  const uint32_t *first_instance; /**< [ranks + 1]: first instance of each rank */
  /** The most entries that any rank sends to any one rank that it does not reach directly. Must be equal on
   * all ranks, because the length of a round follows from it. */
  uint32_t max_entries;
  uint32_t max_forwarded; /**< likewise, of forwarded rows */
  /** Bytes of the rows that exchanges will move: memory for them is set aside now, instead of in the first
   * exchange. 0: nothing is. Must be equal on all ranks. */
  uint64_t row_bytes;
} fusco_nccl_plan_desc;

/**
 * Uploads the local rank's part of a plan. Collective if ranks of a hierarchical plan are on several
 * machines: sources then tell forwarders what to do with their rows, which is checked on arrival.
 *
 * @param[in]  group  outlives the plan
 * @param[in]  call   identity of the call
 * @param[in]  desc   read during the call only
 * @param[out] plan   destroy it with fusco_nccl_plan_destroy; unchanged after a failure
 * @param[out] error  may be NULL
 * @retval FUSCO_E_BACKEND        a node spans machines, or NCCL's or the driver's error
 * @retval FUSCO_E_PEER_TIMEOUT   a rank did not arrive before the deadline
 * @retval FUSCO_E_PEER_MISMATCH  a source sent a forwarder descriptors that are out of bounds
 * @retval other                  as fusco_plan_create
 */
fusco_status fusco_nccl_plan_create(fusco_nccl_group *group, const fusco_nccl_call *call,
                                    const fusco_nccl_plan_desc *desc, fusco_nccl_plan **plan,
                                    fusco_error *error);

/**
 * Releases a plan, after waiting for the streams of its group. Not collective.
 *
 * @param[in] plan  NULL is allowed
 */
void fusco_nccl_plan_destroy(fusco_nccl_plan *plan);

/** Device memory that exchanges of a plan need in addition to the caller's buffers. The first exchange
 * allocates it; the group keeps it. */
typedef struct fusco_nccl_bytes {
  uint32_t struct_size; /**< sizeof(fusco_nccl_bytes) */
  uint64_t tables;      /**< the plan itself */
  uint64_t dispatch;    /**< ring segments of a dispatch with one payload per token */
  uint64_t combine;     /**< ring segments and landing rows of a combine */
  uint32_t enqueues;    /**< 1: exchanges of the plan enqueue on the caller's stream and return */
} fusco_nccl_bytes;

/**
 * Computes the device memory of a plan's exchanges. Not collective; does not block.
 *
 * @param[in]     plan       the plan
 * @param[in]     row_bytes  of the payload
 * @param[in,out] bytes      with its struct_size
 * @param[out]    error      may be NULL
 * @retval FUSCO_E_OPTION  an argument is NULL, or struct_size is 0
 */
fusco_status fusco_nccl_plan_bytes(const fusco_nccl_plan *plan, uint64_t row_bytes, fusco_nccl_bytes *bytes,
                                   fusco_error *error);

/** What an exchange did on the local rank. */
typedef struct fusco_nccl_report {
  uint32_t struct_size;   /**< sizeof(fusco_nccl_report) */
  uint32_t rounds;        /**< NCCL groups */
  uint32_t sends;         /**< sends in them */
  fusco_stats stats;      /**< nanoseconds: from the call to the last row */
  uint64_t nccl_sent;     /**< bytes through NCCL */
  uint64_t nccl_received; /**< bytes through NCCL */
  uint64_t direct_bytes; /**< written into (dispatch) or read from (combine) memory of this machine's ranks */
  uint64_t ready_ns;     /**< waiting for the ranks of this machine to enter the call */
  uint64_t pack_ns;      /**< packing, on the device */
  uint64_t pack_hidden_ns; /**< the part of it during which a round was in flight */
  uint64_t nccl_ns;        /**< time during which a round was in flight */
  /** 1: the call enqueued the exchange and returned; stats.nanoseconds is what that took on the host. */
  uint32_t enqueued;
  /** The first exchange along a plan that a group on several machines made on the device: bytes that were
   * read back from the plan buffer, and for how long the call waited for them. Else 0. */
  uint64_t readback_bytes;
  uint64_t readback_ns;
} fusco_nccl_report;

/** Figures per peer: arrays of [ranks] in host memory, filled by the call; each may be NULL. */
typedef struct fusco_nccl_peers {
  uint32_t struct_size;     /**< sizeof(fusco_nccl_peers) */
  uint64_t *sent_bytes;     /**< through NCCL */
  uint64_t *received_bytes; /**< through NCCL */
  uint64_t *wait_ns;        /**< ranks of this machine: how much later than the local rank they entered */
  uint64_t *nccl_ns;        /**< time of the rounds with its rows; shared rounds count for each peer */
} fusco_nccl_peers;

/**
 * Dispatch of the local rank. Collective; enqueues, or blocks until all rows are in place: see "Streams".
 * Follows the work that was on the local rank's stream before the call.
 *
 * @param[in]     plan      the plan
 * @param[in]     call      identity of the call
 * @param[in]     dispatch  buffers of the local rank, device memory
 * @param[in,out] report    host memory, with its struct_size; may be NULL
 * @param[in]     peers     host memory; may be NULL
 * @param[out]    error     may be NULL
 * @retval FUSCO_E_OPTION         a size is out of range
 * @retval FUSCO_E_LIMIT          more than 60 payloads
 * @retval FUSCO_E_BUFFER         too small, misaligned, overlapping, or memory that cannot be shared
 * @retval FUSCO_E_DTYPE          as fusco_dispatch
 * @retval FUSCO_E_BACKEND        NCCL's or the driver's error
 * @retval FUSCO_E_PEER_TIMEOUT   a rank did not arrive before the deadline
 * @retval FUSCO_E_PEER_MISMATCH  a rank makes another call
 */
fusco_status fusco_nccl_dispatch(fusco_nccl_plan *plan, const fusco_nccl_call *call,
                                 const fusco_dispatch_call *dispatch, fusco_nccl_report *report,
                                 const fusco_nccl_peers *peers, fusco_error *error);

/**
 * Combine of the local rank. Collective; enqueues or blocks as fusco_nccl_dispatch. Arithmetic as
 * fusco_combine.
 *
 * @param[in]     plan     the plan
 * @param[in]     call     identity of the call
 * @param[in]     combine  buffers of the local rank, device memory
 * @param[in,out] report   host memory, with its struct_size; may be NULL
 * @param[in]     peers    host memory; may be NULL
 * @param[out]    error    may be NULL
 * @retval other  as fusco_nccl_dispatch
 */
fusco_status fusco_nccl_combine(fusco_nccl_plan *plan, const fusco_nccl_call *call,
                                const fusco_combine_call *combine, fusco_nccl_report *report,
                                const fusco_nccl_peers *peers, fusco_error *error);

/**
 * Gradient of the weights of the local rank. Collective; enqueues or blocks as fusco_nccl_dispatch.
 * Arithmetic as fusco_weight_gradient.
 *
 * @param[in]     plan      the plan
 * @param[in]     call      identity of the call
 * @param[in]     gradient  buffers of the local rank, device memory
 * @param[in,out] report    host memory, with its struct_size; may be NULL
 * @param[in]     peers     host memory; may be NULL
 * @param[out]    error     may be NULL
 * @retval other  as fusco_nccl_dispatch
 */
fusco_status fusco_nccl_weight_gradient(fusco_nccl_plan *plan, const fusco_nccl_call *call,
                                        const fusco_weight_gradient_call *gradient, fusco_nccl_report *report,
                                        const fusco_nccl_peers *peers, fusco_error *error);

/**
 * Both gradients of a combine of the local rank. Collective; enqueues or blocks as fusco_nccl_dispatch.
 * Arithmetic as fusco_combine_gradient.
 *
 * @param[in]     plan      the plan
 * @param[in]     call      identity of the call
 * @param[in]     gradient  buffers of the local rank, device memory
 * @param[in,out] report    host memory, with its struct_size; may be NULL
 * @param[in]     peers     host memory; may be NULL
 * @param[out]    error     may be NULL
 * @retval other  as fusco_nccl_dispatch
 */
fusco_status fusco_nccl_combine_gradient(fusco_nccl_plan *plan, const fusco_nccl_call *call,
                                         const fusco_combine_gradient_call *gradient,
                                         fusco_nccl_report *report, const fusco_nccl_peers *peers,
                                         fusco_error *error);

#ifdef __cplusplus
}
#endif
#endif
