/**
 * @file
 * FUSCO on NVIDIA GPUs: one process drives one or several devices, with any number of ranks on each.
 *
 * The conventions of fusco.h apply (struct sizes, errors, `[ranks]`), with these additions:
 *
 * **Requirements.** Compute capability 9.0. Without CUDA in the build, without a driver or without a GPU,
 * every function that returns a status returns FUSCO_E_BACKEND with the reason.
 *
 * **Memory.** Buffers of exchanges are device memory of the rank's device, or memory that this device can
 * access. Options, reports and handles are host memory. CUDA streams and device memory of other libraries are
 * passed as `void *`; the caller keeps them alive until the work that uses them is done.
 *
 * **Streams.** Each rank has a CUDA stream: the context's own, or one of the caller's. A function that is
 * said to *enqueue* returns without waiting for the GPU. Only fusco_cuda_synchronize,
 * fusco_cuda_event_synchronize, fusco_cuda_alloc, fusco_cuda_free, making or destroying a plan, destroying a
 * context, and an upload that finds both of a plan's host buffers in flight may wait for the GPU.
 *
 * **Readiness.** An exchange starts when the stream of every rank has reached the call (*ready*: inputs
 * complete, outputs free). Work enqueued on a rank's stream after the call starts when all rows of the ranks
 * of that device are in place, and no other device reads theirs (*done*). To use a rank's rows on the stream
 * of another device, wait there for an event of the rank. Both edges are event dependencies between the
 * streams, or signals between the devices' kernels; ranks that share a stream need none.
 *
 * **Device errors** are reported by a later call. After an error that makes the device unusable, such as an
 * illegal address, every call returns FUSCO_E_BACKEND with the first cause. The process continues.
 *
 * **Threads.** As in fusco.h; calls on one context take turns.
 */
#ifndef FUSCO_CUDA_H
#define FUSCO_CUDA_H

#include "fusco.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fusco_cuda_context fusco_cuda_context; /**< devices, ranks and their streams */
typedef struct fusco_cuda_plan fusco_cuda_plan;       /**< a plan in device memory, at fixed addresses */
typedef struct fusco_cuda_event fusco_cuda_event;     /**< a CUDA event of a rank */
typedef struct fusco_cuda_graph fusco_cuda_graph;     /**< captured exchanges */

/**
 * Whether the library was built with CUDA.
 *
 * @return 1 or 0
 */
int fusco_cuda_built(void);

/**
 * Counts the devices. Any thread may call it at any time.
 *
 * @param[out] count  at least 1
 * @param[out] error  may be NULL
 * @retval FUSCO_E_BACKEND  there is none; the message says why
 */
fusco_status fusco_cuda_device_count(uint32_t *count, fusco_error *error);

/** Properties of a device. */
typedef struct fusco_cuda_device_info {
  uint32_t struct_size;   /**< sizeof(fusco_cuda_device_info) */
  char name[128];         /**< as the driver reports it, terminated by 0 */
  uint64_t total_bytes;   /**< device memory */
  uint64_t free_bytes;    /**< at the time of the call */
  uint32_t sms;           /**< number of SMs */
  uint32_t compute_major; /**< compute capability, before the point */
  uint32_t compute_minor; /**< compute capability, after the point */
  uint32_t driver;        /**< 1000 * major + 10 * minor, as CUDA numbers versions */
  uint32_t runtime;       /**< CUDA runtime, in the same form */
} fusco_cuda_device_info;

/**
 * Describes a device. Any thread may call it at any time.
 *
 * @param[in]     device  0..count - 1, as CUDA numbers devices in this process
 * @param[in,out] info    host memory, with its struct_size
 * @param[out]    error   may be NULL
 * @retval FUSCO_E_OPTION   there is no such device
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_device(uint32_t device, fusco_cuda_device_info *info, fusco_error *error);

/**
 * Makes a context: a stream for each rank, and peer access between its devices.
 *
 * @param[in]  ranks    1..64
 * @param[in]  devices  [ranks], host memory: device of each rank; NULL: contiguous blocks of ranks over all
 *                      devices
 * @param[out] context  destroy it with fusco_cuda_context_destroy; unchanged after a failure
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION   a device does not exist, or ranks is out of range
 * @retval FUSCO_E_BACKEND  a device has a compute capability below 9.0, or two devices have no P2P access;
 *                          the message names them
 */
fusco_status fusco_cuda_context_create(uint32_t ranks, const uint32_t *devices, fusco_cuda_context **context,
                                       fusco_error *error);

/**
 * Waits for the work in flight and frees the context's memory. All its other handles must be destroyed
 * before.
 *
 * @param[in] context  NULL is allowed
 */
void fusco_cuda_context_destroy(fusco_cuda_context *context);

/**
 * Number of ranks of a context.
 *
 * @param[in] context  the context
 * @return 1..64; 0 if context is NULL
 */
uint32_t fusco_cuda_ranks(const fusco_cuda_context *context);

/**
 * Device of a rank.
 *
 * @param[in] context  the context
 * @param[in] rank     0..ranks - 1
 * @return number of the device; 0 for another rank, and if context is NULL
 */
uint32_t fusco_cuda_rank_device(const fusco_cuda_context *context, uint32_t rank);

/**
 * Sets the stream of a rank, for the calls that follow. Does not wait, and adds no dependency between the
 * former stream and the new one.
 *
 * @param[in]  context  the context
 * @param[in]  rank     0..ranks - 1
 * @param[in]  stream   cudaStream_t of the rank's device, which stays valid while it is set; NULL: the
 *                      context's own stream
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  the stream belongs to another device, or there is no such rank. The device of a
 *                         stream that is being captured is not compared: later calls fail with
 *                         FUSCO_E_BACKEND if it is another one
 */
fusco_status fusco_cuda_set_stream(fusco_cuda_context *context, uint32_t rank, void *stream,
                                   fusco_error *error);

/**
 * Stream of a rank.
 *
 * @param[in] context  the context
 * @param[in] rank     0..ranks - 1
 * @return a cudaStream_t; NULL for another rank, and if context is NULL
 */
void *fusco_cuda_stream(const fusco_cuda_context *context, uint32_t rank);

/**
 * Limits the SMs of each device that later exchanges of this context occupy.
 *
 * @param[in]  context  the context
 * @param[in]  count    more than a device has: all of its SMs; 0, the default: all SMs, except that a
 *                      combine between devices uses at most 16
 * @param[out] error    may be NULL
 * @retval FUSCO_E_BACKEND  the device failed before
 */
fusco_status fusco_cuda_limit_sms(fusco_cuda_context *context, uint32_t count, fusco_error *error);

/**
 * Reports what kernels of exchanges have recorded until now, without waiting for them. Every other call on
 * the context reports it as well.
 *
 * @param[in]  context  the context
 * @param[out] error    may be NULL
 * @retval FUSCO_E_PEER_TIMEOUT   an exchange passed its deadline; the message names the late ranks
 * @retval FUSCO_E_PEER_MISMATCH  ranks made different calls
 * @retval FUSCO_E_BACKEND        the device failed before
 */
fusco_status fusco_cuda_check(fusco_cuda_context *context, fusco_error *error);

/**
 * @name Memory
 * @{
 */

/**
 * Allocates device memory of a rank. May wait for the device, as cudaMalloc does.
 *
 * @param[in]  context  the context; frees the memory when it is destroyed
 * @param[in]  rank     0..ranks - 1
 * @param[in]  bytes    any number; 0 allocates one byte
 * @param[out] address  device memory, aligned to 256 bytes; free it with fusco_cuda_free
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  there is no such rank
 * @retval FUSCO_E_MEMORY  value: bytes asked for, limit: bytes free
 */
fusco_status fusco_cuda_alloc(fusco_cuda_context *context, uint32_t rank, uint64_t bytes, void **address,
                              fusco_error *error);

/**
 * Frees memory of fusco_cuda_alloc, after waiting for the device.
 *
 * @param[in]  context  the context that allocated it
 * @param[in]  address  device memory; NULL is allowed
 * @param[out] error    may be NULL
 * @retval FUSCO_E_BUFFER  the context did not allocate it
 */
fusco_status fusco_cuda_free(fusco_cuda_context *context, void *address, fusco_error *error);

/**
 * Enqueues a copy on the rank's stream, between host and device memory in any direction. Pageable host
 * memory may make it wait.
 *
 * @param[in]  context  the context
 * @param[in]  rank     0..ranks - 1
 * @param[out] to       `bytes` bytes, host or device memory; alive until the copy is done
 * @param[in]  from     `bytes` bytes, host or device memory; alive until the copy is done
 * @param[in]  bytes    0 is allowed
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION   there is no such rank, or an address is NULL and bytes is not 0
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_copy(fusco_cuda_context *context, uint32_t rank, void *to, const void *from,
                             uint64_t bytes, fusco_error *error);

/**
 * Enqueues a fill of device memory on the rank's stream.
 *
 * @param[in]  context  the context
 * @param[in]  rank     0..ranks - 1
 * @param[out] to       `bytes` bytes, device memory
 * @param[in]  value    of every byte
 * @param[in]  bytes    0 is allowed
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION   there is no such rank, or `to` is NULL and bytes is not 0
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_fill(fusco_cuda_context *context, uint32_t rank, void *to, uint8_t value,
                             uint64_t bytes, fusco_error *error);

/**
 * Enqueues zeros into the end of an array of rows, on the rank's stream. Where it begins is read on the
 * device: behind the rows of a plan that was made there, for example.
 *
 * @param[in]  context    the context
 * @param[in]  rank       0..ranks - 1
 * @param[out] rows       [rows, row_bytes], device memory of the rank; a whole number of rows
 * @param[in]  row_bytes  1..16777216
 * @param[in]  first      u32 [1], device memory: number of rows that stay; nothing is written if there are no
 *                        more
 * @param[out] error      may be NULL
 * @retval FUSCO_E_OPTION   there is no such rank, row_bytes is out of range, or an argument is NULL
 * @retval FUSCO_E_BUFFER   not a whole number of rows, or not accessible from the device
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_clear_rows(fusco_cuda_context *context, uint32_t rank, const fusco_buffer *rows,
                                   uint64_t row_bytes, const uint32_t *first, fusco_error *error);

/**
 * Waits for the streams of all ranks. Other calls on the context wait meanwhile.
 *
 * @param[in]  context  the context
 * @param[out] error    may be NULL
 * @retval FUSCO_E_BACKEND  an error that occurred on the streams
 */
fusco_status fusco_cuda_synchronize(fusco_cuda_context *context, fusco_error *error);
/** @} */

/**
 * @name Events
 * @{
 */

/**
 * Makes an event, with timing. Until its first record it counts as done.
 *
 * @param[in]  context  outlives the event
 * @param[in]  rank     whose stream records the event, 0..ranks - 1
 * @param[out] event    destroy it with fusco_cuda_event_destroy
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION   there is no such rank
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_event_create(fusco_cuda_context *context, uint32_t rank, fusco_cuda_event **event,
                                     fusco_error *error);

/**
 * Releases an event, without waiting for it.
 *
 * @param[in] event  NULL is allowed
 */
void fusco_cuda_event_destroy(fusco_cuda_event *event);

/**
 * Enqueues the event on the stream of its rank.
 *
 * @param[in]  event  the event; recording it again replaces the former record
 * @param[out] error  may be NULL
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_event_record(fusco_cuda_event *event, fusco_error *error);

/**
 * Enqueues a wait: work that is enqueued later on the stream of `rank` starts after the event's last record.
 *
 * @param[in]  event  the event
 * @param[in]  rank   0..ranks - 1, any rank of the same context
 * @param[out] error  may be NULL
 * @retval FUSCO_E_OPTION   there is no such rank
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_event_wait(fusco_cuda_event *event, uint32_t rank, fusco_error *error);

/**
 * Asks whether an event is done, without waiting.
 *
 * @param[in]  event  the event
 * @param[out] done   1 if all work before the record is done, else 0
 * @param[out] error  may be NULL
 * @retval FUSCO_E_BACKEND  an error that occurred on the stream
 */
fusco_status fusco_cuda_event_query(fusco_cuda_event *event, int *done, fusco_error *error);

/**
 * Blocks the calling thread until the event is done. Other calls on the context wait meanwhile.
 *
 * @param[in]  event  the event
 * @param[out] error  may be NULL
 * @retval FUSCO_E_BACKEND  an error that occurred on the stream
 */
fusco_status fusco_cuda_event_synchronize(fusco_cuda_event *event, fusco_error *error);

/**
 * Time between the records of two events, without waiting.
 *
 * @param[in]  start         done
 * @param[in]  end           done, an event of the same device
 * @param[out] milliseconds  device time from `start` to `end`
 * @param[out] error         may be NULL
 * @retval FUSCO_E_BACKEND  an event is not recorded or not done, or they are of different devices
 */
fusco_status fusco_cuda_event_elapsed(fusco_cuda_event *start, fusco_cuda_event *end, double *milliseconds,
                                      fusco_error *error);
/** @} */

/**
 * @name Plans
 * @{
 */

/** Sizes that a plan can grow to without moving. Its addresses never change, so that a captured exchange can
 * be replayed with another plan. 0: as large as the first plan needs. */
typedef struct fusco_cuda_capacity {
  uint32_t struct_size; /**< sizeof(fusco_cuda_capacity) */
  uint32_t topk;        /**< experts per token */
  uint64_t tokens;      /**< of all ranks together */
  uint64_t instances;   /**< of all ranks together */
} fusco_cuda_capacity;

/**
 * Makes a plan on the devices and uploads its first contents. All bounds are checked as by
 * fusco_plan_create.
 *
 * @param[in]  context   outlives the plan
 * @param[in]  capacity  NULL: all zero
 * @param[in]  desc      the first contents; read during the call only
 * @param[out] plan      destroy it with fusco_cuda_plan_destroy; unchanged after a failure
 * @param[out] error     may be NULL
 * @retval FUSCO_E_RANKS    the plan has another number of ranks than the context
 * @retval FUSCO_E_LIMIT    the capacity is beyond a limit of the format
 * @retval FUSCO_E_BACKEND  an error of the driver
 * @retval other            as fusco_plan_create
 */
fusco_status fusco_cuda_plan_create(fusco_cuda_context *context, const fusco_cuda_capacity *capacity,
                                    const fusco_plan_desc *desc, fusco_cuda_plan **plan, fusco_error *error);

/**
 * Replaces the contents for exchanges and graph launches after this call. Those before it use the old
 * contents. Enqueues, and waits only if both host buffers of the plan are in flight.
 *
 * @param[in]  plan   the plan; keeps its contents after a failure of the checks
 * @param[in]  desc   the new contents; read during the call only
 * @param[out] error  may be NULL
 * @retval FUSCO_E_LIMIT  larger than the capacity
 * @retval other          as fusco_cuda_plan_create
 */
fusco_status fusco_cuda_plan_upload(fusco_cuda_plan *plan, const fusco_plan_desc *desc, fusco_error *error);

/**
 * Waits for the exchanges that use a plan, and releases it.
 *
 * @param[in] plan  NULL is allowed
 */
void fusco_cuda_plan_destroy(fusco_cuda_plan *plan);

/**
 * Device memory that a plan occupies.
 *
 * @param[in] plan  the plan
 * @return bytes; 0 if plan is NULL
 */
uint64_t fusco_cuda_plan_bytes(const fusco_cuda_plan *plan);
/** @} */

/**
 * @name Exchanges
 * As in fusco.h, but they enqueue. Output buffers must not be used on other streams until an event after the
 * call says so.
 * @{
 */

/** How the rows of an exchange travel. A scaled dispatch always goes straight to the slots. */
typedef enum fusco_cuda_path FUSCO_ENUM {
  /** ONCE if the context has several devices, else DIRECT. */
  FUSCO_CUDA_PATH_AUTO = 0,
  FUSCO_CUDA_PATH_DIRECT = 1, /**< straight to every slot */
  /** Dispatch: once to each rank of another device, which copies the row to its other slots while later rows
   * arrive. Combine, for hierarchical plans with one rank per node: one partial sum per token and rank.
   * Combine gradient: as dispatch, and one number per entry back. Several devices only. */
  FUSCO_CUDA_PATH_ONCE = 2
} fusco_cuda_path;

/** What an exchange enqueued. */
typedef struct fusco_cuda_report {
  uint32_t struct_size;  /**< sizeof(fusco_cuda_report) */
  fusco_cuda_path path;  /**< the path that was used */
  uint32_t tma_payloads; /**< payloads that the TMA units moved */
  fusco_stats stats;     /**< nanoseconds: on the host, to enqueue */
  uint32_t sms;          /**< SMs of each device that the exchange may fill */
} fusco_cuda_report;

/**
 * Enqueues a dispatch.
 *
 * @param[in]     plan    the plan
 * @param[in]     path    see fusco_cuda_path
 * @param[in]     call    device buffers
 * @param[in,out] report  host memory, with its struct_size; may be NULL
 * @param[out]    error   may be NULL
 * @retval FUSCO_E_OPTION   ONCE in a context of one device, or a size out of range
 * @retval FUSCO_E_BUFFER   too small, misaligned, overlapping, or not accessible from the device
 * @retval FUSCO_E_DTYPE    as fusco_dispatch
 * @retval FUSCO_E_MEMORY   device memory for signals between devices cannot be allocated
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_dispatch(fusco_cuda_plan *plan, fusco_cuda_path path, const fusco_dispatch_call *call,
                                 fusco_cuda_report *report, fusco_error *error);

/**
 * Enqueues a combine, in the order of the plan's tree. Arithmetic as fusco_combine.
 *
 * @param[in]     plan    the plan
 * @param[in]     call    device buffers
 * @param[in,out] report  host memory, with its struct_size; may be NULL
 * @param[out]    error   may be NULL
 * @retval FUSCO_E_BUFFER   too small, misaligned, overlapping, or not accessible from the device
 * @retval FUSCO_E_BACKEND  an error of the driver
 * @retval other            as fusco_combine
 */
fusco_status fusco_cuda_combine(fusco_cuda_plan *plan, const fusco_combine_call *call,
                                fusco_cuda_report *report, fusco_error *error);

/**
 * Enqueues a gradient of the weights. Arithmetic as fusco_weight_gradient.
 *
 * @param[in]     plan    the plan
 * @param[in]     call    device buffers
 * @param[in,out] report  host memory, with its struct_size; may be NULL
 * @param[out]    error   may be NULL
 * @retval other  as fusco_cuda_combine
 */
fusco_status fusco_cuda_weight_gradient(fusco_cuda_plan *plan, const fusco_weight_gradient_call *call,
                                        fusco_cuda_report *report, fusco_error *error);

/**
 * Enqueues both gradients of a combine. Arithmetic as fusco_combine_gradient. Between several devices, if
 * rows and addresses are multiples of 16 bytes, each row crosses a link once per destination rank, which
 * scales it, and each gradient of a weight returns as one number: path ONCE. Otherwise DIRECT.
 *
 * @param[in]     plan    the plan
 * @param[in]     call    device buffers
 * @param[in,out] report  host memory, with its struct_size; may be NULL
 * @param[out]    error   may be NULL
 * @retval other  as fusco_cuda_combine
 */
fusco_status fusco_cuda_combine_gradient(fusco_cuda_plan *plan, const fusco_combine_gradient_call *call,
                                         fusco_cuda_report *report, fusco_error *error);
/** @} */

/**
 * @name Row operations
 * As in fusco.h, with the same bits, on device memory; elements are aligned to their size. They enqueue on
 * the rank's stream and depend on no other rank.
 * @{
 */

/**
 * Enqueues fusco_fp8_quantize.
 *
 * @param[in]  context  the context
 * @param[in]  rank     0..ranks - 1
 * @param[in]  call     device memory of the rank
 * @param[out] error    may be NULL
 * @retval FUSCO_E_BUFFER   too small, misaligned, overlapping, or not accessible from the device
 * @retval FUSCO_E_BACKEND  an error of the driver
 * @retval other            FUSCO_E_OPTION and FUSCO_E_DTYPE, as fusco_fp8_quantize
 */
fusco_status fusco_cuda_fp8_quantize(fusco_cuda_context *context, uint32_t rank, const fusco_fp8_call *call,
                                     fusco_error *error);

/**
 * Enqueues fusco_fp8_dequantize.
 *
 * @param[in]  context  the context
 * @param[in]  rank     0..ranks - 1
 * @param[in]  call     device memory of the rank
 * @param[out] error    may be NULL
 * @retval other  as fusco_cuda_fp8_quantize
 */
fusco_status fusco_cuda_fp8_dequantize(fusco_cuda_context *context, uint32_t rank, const fusco_fp8_call *call,
                                       fusco_error *error);

/**
 * Enqueues fusco_gate.
 *
 * @param[in]  context  the context
 * @param[in]  rank     0..ranks - 1
 * @param[in]  call     device memory of the rank
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION   as fusco_gate, or there is no such rank
 * @retval FUSCO_E_BUFFER   too small, misaligned, overlapping, or not accessible from the device
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_gate(fusco_cuda_context *context, uint32_t rank, const fusco_gate_call *call,
                             fusco_error *error);

/**
 * Enqueues fusco_gate_backward. Ids are on the device, so an id out of range is no error: its entry has
 * score
 * and gradient 0. Nothing outside the buffers is accessed.
 *
 * @param[in]  context  the context
 * @param[in]  rank     0..ranks - 1
 * @param[in]  call     device memory of the rank
 * @param[out] error    may be NULL
 * @retval other  as fusco_cuda_gate
 */
fusco_status fusco_cuda_gate_backward(fusco_cuda_context *context, uint32_t rank,
                                      const fusco_gate_backward_call *call, fusco_error *error);
/** @} */

/**
 * @name Graphs
 * @{
 */

/**
 * Starts a capture: work on the ranks' streams until fusco_cuda_capture_end becomes a graph and does not
 * run. The same thread begins and ends a capture.
 *
 * @param[in]  context  the context
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION   a capture is in progress
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_capture_begin(fusco_cuda_context *context, fusco_error *error);

/**
 * Ends the capture.
 *
 * @param[in]  context  the context
 * @param[out] graph    destroy it with fusco_cuda_graph_destroy; the captured buffers must exist when it is
 *                      launched
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION   no capture is in progress
 * @retval FUSCO_E_BACKEND  the capture was invalidated; nothing is captured
 */
fusco_status fusco_cuda_capture_end(fusco_cuda_context *context, fusco_cuda_graph **graph,
                                    fusco_error *error);

/**
 * Enqueues the graph once, after the streams of all ranks are ready, with the contents that its plans have
 * now.
 *
 * @param[in]  graph  the graph
 * @param[out] error  may be NULL
 * @retval FUSCO_E_OPTION   a plan's contents changed in strategy, topk, sum or partial dtype since the
 *                          capture
 * @retval FUSCO_E_BUFFER   a plan's contents do not fit the captured buffers
 * @retval FUSCO_E_BACKEND  an error of the driver
 */
fusco_status fusco_cuda_graph_launch(fusco_cuda_graph *graph, fusco_error *error);

/**
 * Releases a graph. A launch in flight completes.
 *
 * @param[in] graph  NULL is allowed
 */
void fusco_cuda_graph_destroy(fusco_cuda_graph *graph);
/** @} */

#ifdef __cplusplus
}
#endif
#endif
