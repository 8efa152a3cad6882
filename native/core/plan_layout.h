/* Generated from planner/format/layout.ts by `npm run build:layout`; do not edit. */
#ifndef FUSCO_PLAN_LAYOUT_H
#define FUSCO_PLAN_LAYOUT_H

/* Newest format version. A reader accepts its own major version and every minor version up to its own. */
#define FUSCO_FORMAT_MAJOR 1
#define FUSCO_FORMAT_MINOR 1
/* "FSHD", little-endian. */
#define FUSCO_SHARD_MAGIC 1145590598
/* Words of the shard's head. */
#define FUSCO_W_MAGIC 0
#define FUSCO_W_RANK 1
#define FUSCO_W_RANKS 2
#define FUSCO_W_TOKENS 3
#define FUSCO_W_TOPK 4
#define FUSCO_W_INSTANCES 5
/* First instance that this rank hosts. */
#define FUSCO_W_FIRST_INSTANCE 6
#define FUSCO_W_LOCAL_INSTANCES 7
/* Rows of the receive buffer, padding included. */
#define FUSCO_W_RECV_ROWS 8
/* Entries that reach a slot. */
#define FUSCO_W_KEPT 9
/* Entries without an expert. */
#define FUSCO_W_MASKED 10
/* Entries beyond the capacity of their expert. */
#define FUSCO_W_DROPPED 11
/* Reserved: zero. */
#define FUSCO_W_RESERVED 12
/* Rows of this rank's landing buffer; 0 in flat plans. */
#define FUSCO_W_STAGE_ROWS 13
/* Rows that this rank forwards to a landing row instead of a slot; 0 in flat plans. */
#define FUSCO_W_STAGED 14
/* Tokens of one tile of S_TILE_ORDER; 0 without one. */
#define FUSCO_W_TILE_TOKENS 15
#define FUSCO_SHARD_WORDS 16
#define FUSCO_S_EXPERT_OFFSET 0
#define FUSCO_S_EXPERT_ROWS 1
#define FUSCO_S_RUN_ROW 2
#define FUSCO_S_RUN_ROWS 3
#define FUSCO_S_SEND_ROW 4
#define FUSCO_S_SEND_ROWS 5
#define FUSCO_S_SLICE 6
#define FUSCO_S_ENTRY_SLOT 7
#define FUSCO_S_ENTRY_INSTANCE 8
#define FUSCO_S_SEND_ENTRY 9
#define FUSCO_S_FORWARD_ROW 10
#define FUSCO_S_FORWARD_ROWS 11
#define FUSCO_S_FORWARD_TOKEN 12
#define FUSCO_S_FORWARD_TARGET 13
#define FUSCO_S_DISTRIBUTE_OFFSET 14
#define FUSCO_S_DISTRIBUTE_ENTRY 15
#define FUSCO_S_FORWARD_SLICE 16
#define FUSCO_S_STAGE_ROW 17
#define FUSCO_S_STAGE_ROWS 18
#define FUSCO_S_TILE_ORDER 19
/* Entries of the section table; those above S_TILE_ORDER are reserved and zero. */
#define FUSCO_SECTIONS 24
/* Byte offset of the section table. */
#define FUSCO_SECTION_TABLE 64
/* Byte offset of the first section. */
#define FUSCO_SHARD_BODY 256
/* Alignment of shards in the file and of sections in a shard, in bytes. */
#define FUSCO_SECTION_ALIGN 64
/* Words of one slice: peer, first row, rows. */
#define FUSCO_SLICE_WORDS 3
/* Slot of an entry without an expert (id -1). */
#define FUSCO_SLOT_MASKED (-1)
/* Slot of an entry beyond its expert's capacity. */
#define FUSCO_SLOT_DROPPED (-2)
/* Limits of a plan, trusted or not. */
#define FUSCO_MAX_RANKS 4096
/* An instance fits a u16 with one value to spare for "masked". */
#define FUSCO_MAX_INSTANCES 65535
#define FUSCO_MAX_TOPK 256
/* Rows of one rank's receive buffer, and entries of one rank: the largest positive i32. */
#define FUSCO_MAX_ROWS 2147483647
/* Bytes of the file's header map. */
#define FUSCO_MAX_HEADER_BYTES 1048576
/* Bytes of one token's payload. */
#define FUSCO_MAX_ROW_BYTES 16777216
/* Bytes of one shard: the most that a msgpack bin32 holds, less one section's alignment. */
#define FUSCO_MAX_SHARD_BYTES 4294967232u

#endif
