/*
 * FUSCO's executor on NVIDIA GPUs: one process drives one or more devices, with any number of ranks on each.
 *
 * Plain C, like fusco.h, whose types it shares; no type of CUDA appears. Streams and device memory of others
 * come and go as pointers, so that a tensor of another library can be exchanged in place. Without CUDA at
 * build time, or without a driver or a GPU at run time, the functions that start something return
 * FUSCO_E_BACKEND and say why.
 *
 * Everything that takes a rank's stream enqueues and returns. Calls of one context take turns; nothing waits
 * for the GPU but fusco_cuda_synchronize, fusco_cuda_event_synchronize, destroying handles, and an upload
 * that finds both of a plan's host buffers still on their way.
 *
 * Readiness. An exchange starts when the stream of every rank has reached the call ("ready": inputs produced,
 * outputs free), and what is enqueued on any rank's stream after the call runs when every writer is done
 * ("done"). Both edges are events on the devices; ranks that share a stream need none.
 *
 * Errors of the GPU show at a later call. After one that leaves the device unusable (an address that is not
 * the device's, for example) every call returns FUSCO_E_BACKEND with the first cause; the process lives on.
 */
#ifndef FUSCO_CUDA_H
#define FUSCO_CUDA_H

#include "fusco.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fusco_cuda_context fusco_cuda_context;
typedef struct fusco_cuda_plan fusco_cuda_plan;
typedef struct fusco_cuda_event fusco_cuda_event;
typedef struct fusco_cuda_graph fusco_cuda_graph;

/* 1 where the library was built with CUDA. */
int fusco_cuda_built(void);

/* Number of devices. E_BACKEND where there is none, with the reason: no CUDA in this build, no driver, no
 * GPU. */
fusco_status fusco_cuda_device_count(uint32_t *count, fusco_error *error);

typedef struct fusco_cuda_device_info {
  char name[128];
  uint64_t total_bytes;
  uint64_t free_bytes;
  uint32_t multiprocessors;
  uint32_t compute_major;
  uint32_t compute_minor;
  uint32_t driver;  /* as CUDA numbers it: 1000 x major + 10 x minor */
  uint32_t runtime; /* likewise */
} fusco_cuda_device_info;

fusco_status fusco_cuda_device(uint32_t device, fusco_cuda_device_info *info, fusco_error *error);

/*
 * `devices` is [ranks], the device of each rank, or NULL for blocks of ranks over all devices. 1 to 64 ranks.
 * Different devices must reach each other's memory. E_OPTION, E_BACKEND (P2P refused: which pair), E_MEMORY.
 */
fusco_status fusco_cuda_context_create(uint32_t ranks, const uint32_t *devices, fusco_cuda_context **context,
                                       fusco_error *error);
/* Waits for what is in flight, and frees what the context allocated. Its other handles must be gone. */
void fusco_cuda_context_destroy(fusco_cuda_context *context);
uint32_t fusco_cuda_ranks(const fusco_cuda_context *context);
uint32_t fusco_cuda_rank_device(const fusco_cuda_context *context, uint32_t rank);

/* Makes a cudaStream_t of the caller the stream of a rank; NULL goes back to the context's own. E_OPTION for
 * a stream of another device. */
fusco_status fusco_cuda_set_stream(fusco_cuda_context *context, uint32_t rank, void *stream,
                                   fusco_error *error);
void *fusco_cuda_stream(const fusco_cuda_context *context, uint32_t rank);

/* How many multiprocessors of each device the exchanges of this context may fill from now on, so that others
 * have the rest. 0, the default: all, but a combine between devices takes no more than 16. */
fusco_status fusco_cuda_limit_multiprocessors(fusco_cuda_context *context, uint32_t count,
                                              fusco_error *error);

/* Memory on a rank's device. E_MEMORY with the bytes asked (value) and free (limit). */
fusco_status fusco_cuda_alloc(fusco_cuda_context *context, uint32_t rank, uint64_t bytes, void **address,
                              fusco_error *error);
/* Memory of this context; waits for the device. */
fusco_status fusco_cuda_free(fusco_cuda_context *context, void *address, fusco_error *error);
/* Between host and device memory, in any direction, on the rank's stream. Pageable host memory may make it
 * wait. */
fusco_status fusco_cuda_copy(fusco_cuda_context *context, uint32_t rank, void *to, const void *from,
                             uint64_t bytes, fusco_error *error);
fusco_status fusco_cuda_fill(fusco_cuda_context *context, uint32_t rank, void *to, uint8_t value,
                             uint64_t bytes, fusco_error *error);
/* Waits for all ranks' streams. E_BACKEND with what went wrong on them. */
fusco_status fusco_cuda_synchronize(fusco_cuda_context *context, fusco_error *error);

fusco_status fusco_cuda_event_create(fusco_cuda_context *context, uint32_t rank, fusco_cuda_event **event,
                                     fusco_error *error);
void fusco_cuda_event_destroy(fusco_cuda_event *event);
/* On the stream of the event's rank. */
fusco_status fusco_cuda_event_record(fusco_cuda_event *event, fusco_error *error);
/* Lets the stream of `rank` wait for it. */
fusco_status fusco_cuda_event_wait(fusco_cuda_event *event, uint32_t rank, fusco_error *error);
/* 1 when everything before the record is done. */
fusco_status fusco_cuda_event_query(fusco_cuda_event *event, int *done, fusco_error *error);
fusco_status fusco_cuda_event_synchronize(fusco_cuda_event *event, fusco_error *error);
fusco_status fusco_cuda_event_elapsed(fusco_cuda_event *start, fusco_cuda_event *end, double *milliseconds,
                                      fusco_error *error);

/* What a plan slot can hold: its addresses never change, so that a captured exchange can be replayed with
 * another plan. Zero everywhere means the size of the plan that it is made with. */
typedef struct fusco_cuda_capacity {
  uint64_t tokens; /* of all ranks together */
  uint32_t topk;
  uint64_t instances; /* of all ranks together */
} fusco_cuda_capacity;

typedef struct fusco_cuda_plan_desc {
  fusco_plan_desc plan;
  const uint16_t *groups; /* [ranks], communication groups of a hierarchical plan; NULL: no forwarding */
} fusco_cuda_plan_desc;

/* Makes a slot and uploads its first plan. The plan is checked as fusco_plan_create checks it, and so are its
 * forwarding descriptors where there are groups. E_* of fusco_plan_create, E_MEMORY, E_BACKEND. */
fusco_status fusco_cuda_plan_create(fusco_cuda_context *context, const fusco_cuda_capacity *capacity,
                                    const fusco_cuda_plan_desc *desc, fusco_cuda_plan **plan,
                                    fusco_error *error);
/* Replaces the slot's plan for exchanges and replays after this call, without waiting for those before it:
 * they see the old one. Of two slots one can be uploaded while the other runs. E_LIMIT beyond the capacity.
 */
fusco_status fusco_cuda_plan_upload(fusco_cuda_plan *plan, const fusco_cuda_plan_desc *desc,
                                    fusco_error *error);
void fusco_cuda_plan_destroy(fusco_cuda_plan *plan);
/* Bytes of device memory, staging rows included. */
uint64_t fusco_cuda_plan_bytes(const fusco_cuda_plan *plan);

/* How the rows of a dispatch travel. FORWARD: once to each remote node's forwarder, and from there on to the
 * other slots; for hierarchical plans only. A scaled dispatch always goes direct. AUTO is FORWARD for
 * hierarchical plans with groups where the context has several devices, since a row crosses the link between
 * them once then (measured on two H100: 0.38 ms against 0.70), and DIRECT otherwise. */
typedef enum fusco_cuda_path FUSCO_ENUM {
  FUSCO_CUDA_PATH_AUTO = 0,
  FUSCO_CUDA_PATH_DIRECT = 1,
  FUSCO_CUDA_PATH_FORWARD = 2
} fusco_cuda_path;

typedef struct fusco_cuda_report {
  fusco_stats stats;    /* nanoseconds: of the call on the host, which only enqueues */
  fusco_cuda_path path; /* the one that ran */
  uint32_t by_tiles;    /* payloads that the copy engines of the multiprocessors moved */
} fusco_cuda_report;

/* As in fusco.h, but buffers are memory that the rank's device reaches. A combine follows the plan's tree. A
 * forwarded dispatch may have to allocate staging rows; it must have run once before it is captured. */
fusco_status fusco_cuda_dispatch(fusco_cuda_plan *plan, fusco_cuda_path path, const fusco_dispatch_call *call,
                                 fusco_cuda_report *report, fusco_error *error);
fusco_status fusco_cuda_combine(fusco_cuda_plan *plan, const fusco_combine_call *call,
                                fusco_cuda_report *report, fusco_error *error);
fusco_status fusco_cuda_weight_gradient(fusco_cuda_plan *plan, const fusco_weight_gradient_call *call,
                                        fusco_cuda_report *report, fusco_error *error);

/*
 * Work on one rank's rows, as in fusco.h and the same bits, on memory that the rank's device reaches;
 * elements lie at multiples of their size. It is enqueued on the rank's stream and needs no other rank's.
 * E_OPTION, E_BUFFER, E_DTYPE.
 */
fusco_status fusco_cuda_fp8_quantize(fusco_cuda_context *context, uint32_t rank, const fusco_fp8_call *call,
                                     fusco_error *error);
fusco_status fusco_cuda_fp8_dequantize(fusco_cuda_context *context, uint32_t rank, const fusco_fp8_call *call,
                                       fusco_error *error);
fusco_status fusco_cuda_gate(fusco_cuda_context *context, uint32_t rank, const fusco_gate_call *call,
                             fusco_error *error);
/* Ids are on the device, so that one out of range is no error: its entry counts as a score and a gradient of
 * 0, and nothing outside the buffers is touched. */
fusco_status fusco_cuda_gate_backward(fusco_cuda_context *context, uint32_t rank,
                                      const fusco_gate_backward_call *call, fusco_error *error);

/* What is enqueued on the ranks' streams between the two calls becomes a graph instead of running. */
fusco_status fusco_cuda_capture_begin(fusco_cuda_context *context, fusco_error *error);
fusco_status fusco_cuda_capture_end(fusco_cuda_context *context, fusco_cuda_graph **graph,
                                    fusco_error *error);
/* Runs it once, after all ranks' streams are ready, with the plans that its slots hold now. Where a slot was
 * uploaded since, its plan must fit the captured buffers and have the same strategy, topk and partial dtype.
 */
fusco_status fusco_cuda_graph_launch(fusco_cuda_graph *graph, fusco_error *error);
void fusco_cuda_graph_destroy(fusco_cuda_graph *graph);

#ifdef __cplusplus
}
#endif
#endif
