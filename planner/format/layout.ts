// The byte layout of a shard, defined here alone.
//
// Compiled twice, by tsc for the planner, the verifier and the executor, and by asc into the planner's Wasm, so this
// file has only integer constants. `npm run build:layout` generates
// `native/core/plan_layout.h` from it; a test compares the two.
//
// A plan file is one msgpack array. Shard r describes every row that rank r SENDS. Its run tables say where the rows
// that rank r RECEIVES are stored.
//
//   +--------------------------------------------------------------------------------------------+
//   | "FUSCOPLN" | [major, minor] | header map | pad | shard 0 | pad | shard 1 | … | file digest |
//   +--------------------------------------------------------------------------------------------+
//     a pad is a bin of zeros; the first byte of every shard is at a multiple of 64 in the file
//
//   shard (little-endian, struct of arrays, every section starts at a multiple of 64, gaps are zero)
//   +------+-----------------------------------------------------------------------------------+
//   |    0 | 16 words u32: magic, rank, ranks, tokens, topk, …            (W_* below)           |
//   |   64 | 24 section entries {u32 offset in bytes, u32 elements}       (S_* below)           |
//   |  256 | section 0 | section 1 | … in ascending order; an empty section has offset 0        |
//   +------+-----------------------------------------------------------------------------------+
//
//   An *instance* is one (expert, rank) pair of the placement. Instances are numbered by (rank, expert), so
//   the send order, sorted by instance, is sorted by destination rank. Without replicas and without an explicit map,
//   instance i is expert i. An *entry* is token * topk + k.
//
//   section            element  elements            meaning
//   S_EXPERT_OFFSET    u32      local + 1           first row of each local expert's block; last = all rows
//   S_EXPERT_ROWS      u32      local               real rows of each block (the rest is padding)
//   S_RUN_ROW          u32      local x ranks       first row of the run (local expert, source rank)
//   S_RUN_ROWS         u32      local x ranks       rows of that run
//   S_SEND_ROW         u32      instances           first row of this rank's run at the destination
//   S_SEND_ROWS        u32      instances           rows of that run
//   S_SLICE            u32      3 x slices          {peer, first row of the send order, rows} in order of issue
//   S_ENTRY_SLOT       i32      tokens x topk       row at the destination; SLOT_MASKED, SLOT_DROPPED
//   S_ENTRY_INSTANCE   u16      tokens x topk       destination; `instances` where masked
//   S_SEND_ENTRY       u32      direct rows         direct descriptors: entries by (instance, token, k)
//   hierarchical plans only
//   S_FORWARD_ROW      u32      nodes               first landing row of this rank's rows at its forwarder
//   S_FORWARD_ROWS     u32      nodes               rows forwarded to each node
//   S_FORWARD_TOKEN    u32      forwarded           token of each forwarded row, by (node, token)
//   S_FORWARD_TARGET   i32      forwarded           >= 0: slot at the forwarder; < 0: ~(landing row)
//   S_DISTRIBUTE_OFFSET u32     forwarded + 1       first element of each forwarded row in S_DISTRIBUTE_ENTRY
//   S_DISTRIBUTE_ENTRY u32      distributed         distribution descriptors: the row's entries by k
//   S_FORWARD_SLICE    u32      3 x slices          {node, first forwarded row, rows} in order of issue
//   S_STAGE_ROW        u32      ranks               as a forwarder: first landing row of each source rank
//   S_STAGE_ROWS       u32      ranks               as a forwarder: rows forwarded by each source rank
//   optional schedule
//   S_TILE_ORDER       u8       tokens x topk       order of stores inside each tile of W_TILE_TOKENS tokens

/** Newest format version. A reader accepts its own major version and every minor version up to its own. */
export const FORMAT_MAJOR = 1;
export const FORMAT_MINOR = 1;

/** "FSHD", little-endian. */
export const SHARD_MAGIC = 0x44485346;

// Words of the shard's head.
export const W_MAGIC = 0;
export const W_RANK = 1;
export const W_RANKS = 2;
export const W_TOKENS = 3;
export const W_TOPK = 4;
export const W_INSTANCES = 5;
/** First instance that this rank hosts. */
export const W_FIRST_INSTANCE = 6;
export const W_LOCAL_INSTANCES = 7;
/** Rows of the receive buffer, padding included. */
export const W_RECV_ROWS = 8;
/** Entries that reach a slot. */
export const W_KEPT = 9;
/** Entries without an expert. */
export const W_MASKED = 10;
/** Entries beyond the capacity of their expert. */
export const W_DROPPED = 11;
/** Reserved: zero. */
export const W_RESERVED = 12;
/** Rows of this rank's landing buffer; 0 in flat plans. */
export const W_STAGE_ROWS = 13;
/** Rows that this rank forwards to a landing row instead of a slot; 0 in flat plans. */
export const W_STAGED = 14;
/** Tokens of one tile of S_TILE_ORDER; 0 without one. */
export const W_TILE_TOKENS = 15;
export const SHARD_WORDS = 16;

export const S_EXPERT_OFFSET = 0;
export const S_EXPERT_ROWS = 1;
export const S_RUN_ROW = 2;
export const S_RUN_ROWS = 3;
export const S_SEND_ROW = 4;
export const S_SEND_ROWS = 5;
export const S_SLICE = 6;
export const S_ENTRY_SLOT = 7;
export const S_ENTRY_INSTANCE = 8;
export const S_SEND_ENTRY = 9;
export const S_FORWARD_ROW = 10;
export const S_FORWARD_ROWS = 11;
export const S_FORWARD_TOKEN = 12;
export const S_FORWARD_TARGET = 13;
export const S_DISTRIBUTE_OFFSET = 14;
export const S_DISTRIBUTE_ENTRY = 15;
export const S_FORWARD_SLICE = 16;
export const S_STAGE_ROW = 17;
export const S_STAGE_ROWS = 18;
export const S_TILE_ORDER = 19;
/** Entries of the section table; those above S_TILE_ORDER are reserved and zero. */
export const SECTIONS = 24;

/** Byte offset of the section table. */
export const SECTION_TABLE = 64;
/** Byte offset of the first section. */
export const SHARD_BODY = 256;
/** Alignment of shards in the file and of sections in a shard, in bytes. */
export const SECTION_ALIGN = 64;
/** Words of one slice: peer, first row, rows. */
export const SLICE_WORDS = 3;

/** Slot of an entry without an expert (id -1). */
export const SLOT_MASKED = -1;
/** Slot of an entry beyond its expert's capacity. */
export const SLOT_DROPPED = -2;

// Limits of a plan, trusted or not.
export const MAX_RANKS = 4096;
/** An instance fits a u16 with one value to spare for "masked". */
export const MAX_INSTANCES = 65535;
export const MAX_TOPK = 256;
/** Rows of one rank's receive buffer, and entries of one rank: the largest positive i32. */
export const MAX_ROWS = 0x7fffffff;
/** Bytes of the file's header map. */
export const MAX_HEADER_BYTES = 1048576;
/** Bytes of one token's payload. */
export const MAX_ROW_BYTES = 16777216;
/** Bytes of one shard: the most that a msgpack bin32 holds, less one section's alignment. */
export const MAX_SHARD_BYTES = 0xffffffc0;
