/*
 * FUSCO's executor with one process for each rank, on any number of hosts: rows for ranks of the own host,
 * and of the own node where the plan has nodes, go straight into their memory (CUDA IPC), all others travel
 * through NCCL, which is opened at run time.
 *
 * Plain C, like fusco.h, whose types it shares. Calls take buffers of one rank, the caller's own: arrays that
 * fusco.h calls [ranks] have one element here. All calls but fusco_nccl_abort block and belong to one thread.
 *
 * Order. All ranks of a group make the same calls in the same order. Each call has a number, its step, that
 * ascends by one, and a digest of what it does: ranks of one host compare both before they move anything.
 *
 * Waiting. Every call has the group's deadline. When it passes, or fusco_nccl_abort is called from another
 * thread, the call fails with FUSCO_E_PEER_TIMEOUT, NCCL's communicator is aborted, kernels that wait for
 * peers end, and every later call fails with the same message. The process lives on.
 */
#ifndef FUSCO_NCCL_H
#define FUSCO_NCCL_H

#include "fusco_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fusco_nccl_group fusco_nccl_group;
typedef struct fusco_nccl_plan fusco_nccl_plan;

#define FUSCO_NCCL_ID_BYTES 128

typedef struct fusco_nccl_library {
  char path[512];   /* what was opened */
  uint32_t version; /* as NCCL numbers it: 10000 x major + 100 x minor + patch */
} fusco_nccl_library;

/*
 * Opens NCCL, once for the process: `path`, or where it is NULL FUSCO_NCCL_PATH, or libnccl.so.2 where the
 * loader finds it. E_BACKEND: where it looked and why that failed, or a version before 2.19.
 */
fusco_status fusco_nccl_open(const char *path, fusco_nccl_library *library, fusco_error *error);

/* What every rank of a new group must be given; made by one of them. */
fusco_status fusco_nccl_unique_id(uint8_t id[FUSCO_NCCL_ID_BYTES], fusco_error *error);

typedef struct fusco_nccl_group_desc {
  fusco_cuda_context *context; /* of one rank: this process's; it must outlive the group */
  uint32_t ranks;              /* 1..4096 */
  uint32_t rank;
  /* [ranks]: ranks with one number are on one host and reach each other's device memory; at most 60 of them
   * share one. */
  const uint32_t *hosts;
  /* Name of shared memory, such as "/fusco-1f3a": alike on the ranks of a host, and used once. Not needed by
   * a rank that is alone on its host. */
  const char *board;
  uint8_t id[FUSCO_NCCL_ID_BYTES];
  uint32_t max_ctas;   /* thread blocks that NCCL may use; 0: as it likes */
  uint64_t step_bytes; /* for one peer in one step, at least, where there are that many; alike on all ranks */
  uint64_t deadline_ns; /* of every call; at least 1000000 */
} fusco_nccl_group_desc;

/* Collective. E_OPTION, E_BACKEND, E_MEMORY, E_PEER_TIMEOUT. */
fusco_status fusco_nccl_group_create(const fusco_nccl_group_desc *desc, fusco_nccl_group **group,
                                     fusco_error *error);
/* From any thread: makes the call in progress and all later ones fail. */
void fusco_nccl_abort(fusco_nccl_group *group, const char *why);
/* Frees what the group allocated; its plans must be gone. */
void fusco_nccl_group_destroy(fusco_nccl_group *group);

/* What a call is in the order of calls. */
typedef struct fusco_nccl_step {
  uint64_t number;
  uint64_t digest;
} fusco_nccl_step;

/* all[r] = rank r's `bytes` bytes, by ncclAllGather; host memory. At most 64 MiB a rank. */
fusco_status fusco_nccl_all_gather(fusco_nccl_group *group, const fusco_nccl_step *step, const void *own,
                                   void *all, uint64_t bytes, fusco_error *error);

typedef struct fusco_nccl_plan_desc {
  fusco_buffer shard; /* of the own rank */
  uint32_t ranks_per_node;
  fusco_strategy strategy;
  fusco_partial partial;
  const uint16_t *groups;         /* [ranks], communication groups; hierarchical plans only */
  const uint32_t *first_instance; /* [ranks + 1]: instances are numbered by (rank, expert) */
  uint32_t slice_rows;            /* of the plan; a step moves one or several slices to a peer */
  /* The most rows that any rank sends to any one rank that it does not reach directly: entries, and forwarded
   * rows. Alike on all ranks, since the length of a step follows from them. */
  uint32_t most_entries;
  uint32_t most_forwarded;
} fusco_nccl_plan_desc;

/*
 * Collective where ranks of a hierarchical plan are on several hosts: sources tell forwarders what to do with
 * their rows, which is checked on arrival. The ranks of a node must be on one host. E_* of
 * fusco_plan_create, E_BACKEND, E_PEER_TIMEOUT, E_PEER_MISMATCH.
 */
fusco_status fusco_nccl_plan_create(fusco_nccl_group *group, const fusco_nccl_step *step,
                                    const fusco_nccl_plan_desc *desc, fusco_nccl_plan **plan,
                                    fusco_error *error);
void fusco_nccl_plan_destroy(fusco_nccl_plan *plan);

/* Device memory that exchanges of this plan need beside the caller's buffers; it is allocated by the first of
 * them and kept by the group. */
typedef struct fusco_nccl_bytes {
  uint64_t tables;   /* the plan itself */
  uint64_t dispatch; /* rings of a dispatch of one payload per token */
  uint64_t combine;  /* rings and landing rows of a combine */
} fusco_nccl_bytes;

fusco_nccl_bytes fusco_nccl_plan_bytes(const fusco_nccl_plan *plan, uint64_t row_bytes);

typedef struct fusco_nccl_report {
  fusco_stats stats;  /* nanoseconds: from the call to the last row */
  uint64_t wire_sent; /* bytes through NCCL */
  uint64_t wire_received;
  uint64_t direct_written; /* bytes into memory of ranks of the own host, or read from it by a combine */
  uint64_t ready_ns;       /* waiting for the ranks of the own host to enter the step */
  uint64_t pack_ns;        /* packing, on the device */
  uint64_t pack_hidden_ns; /* the part of it during which the wire was busy */
  uint64_t wire_ns;        /* time during which a step was on the wire */
  uint32_t steps;          /* NCCL groups */
  uint32_t slices;         /* sends among them */
} fusco_nccl_report;

/* Arrays of [ranks], or NULL: what concerned each peer. */
typedef struct fusco_nccl_peers {
  uint64_t *sent_bytes;
  uint64_t *received_bytes;
  uint64_t *wait_ns; /* ranks of the own host: how much later than this rank they entered the step */
  uint64_t *wire_ns; /* time of the steps that carried its rows, shared steps counted for each */
} fusco_nccl_peers;

/* As in fusco.h for the own rank's buffers, which are memory of its device. `peers` may be NULL. E_OPTION,
 * E_BUFFER, E_DTYPE, E_LIMIT (more than 60 payloads), E_MEMORY, E_BACKEND, E_PEER_TIMEOUT, E_PEER_MISMATCH.
 */
fusco_status fusco_nccl_dispatch(fusco_nccl_plan *plan, const fusco_nccl_step *step,
                                 const fusco_dispatch_call *call, fusco_nccl_report *report,
                                 const fusco_nccl_peers *peers, fusco_error *error);
fusco_status fusco_nccl_combine(fusco_nccl_plan *plan, const fusco_nccl_step *step,
                                const fusco_combine_call *call, fusco_nccl_report *report,
                                const fusco_nccl_peers *peers, fusco_error *error);
fusco_status fusco_nccl_weight_gradient(fusco_nccl_plan *plan, const fusco_nccl_step *step,
                                        const fusco_weight_gradient_call *call, fusco_nccl_report *report,
                                        const fusco_nccl_peers *peers, fusco_error *error);

#ifdef __cplusplus
}
#endif
#endif
