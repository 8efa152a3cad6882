// Blocks of words that the planner passes to its Wasm. Their words are numbered only here.
//
// Compiled by tsc for planner/*.ts, which fills the blocks, and by asc for planner/assembly/*.ts, which reads them, so it
// contains only integer constants. A word is a u32; word w is at byte 4 * w of its block. An address is a byte address in
// the Wasm's memory.

// Job of `route`: validates one rank's expert ids and replaces each by an instance or, if quotas choose the instance
// later, by the expert.
export const ROUTE_TOKENS = 0;
export const ROUTE_TOPK = 1;
export const ROUTE_EXPERTS = 2;
/** What an entry without an expert becomes. */
export const ROUTE_MASKED = 3;
/** Address of u16[experts]: the target that replaces each expert; 0 if some expert has several candidates. */
export const ROUTE_SINGLE = 4;
/** Address of u32[experts]: index of each expert's first candidate. */
export const ROUTE_FIRST = 5;
/** Address of u32[experts]: number of candidates of each expert. */
export const ROUTE_COUNT = 6;
/** Address of u16[], instances: the candidates of all experts. */
export const ROUTE_CANDIDATES = 7;
/** Address of u32[experts], zeroed: token + 1 of each expert's last use. */
export const ROUTE_STAMP = 8;
/** Address of u16[tokens, topk], out. */
export const ROUTE_TARGETS = 9;
/** Out: the entry that was refused. */
export const ROUTE_ENTRY = 10;
export const ROUTE_WORDS = 11;

// Job of `chooseInstances`: the quotas of one source rank.
export const QUOTA_EXPERTS = 0;
/** What an entry without an expert becomes. */
export const QUOTA_MASKED = 1;
/** Address of u32[experts]: place in the list of each expert's first instance. */
export const QUOTA_FIRST = 2;
/** Address of u16[instances]: instances by (expert, rank). */
export const QUOTA_LIST = 3;
/** Address of u32[instances]: rows of this rank for each instance. */
export const QUOTA_ROWS = 4;
/** Address of u32[experts + 1, 2], overwritten. */
export const QUOTA_STATE = 5;
export const QUOTA_WORDS = 6;

// Tables that all ranks of a group share; `layBlocks`, `fillSendTable`, `fillRunTable` and `fillReceive` read them.
export const GROUP_RANKS = 0;
export const GROUP_INSTANCES = 1;
/** Most rows of one block; 0: no limit. */
export const GROUP_CAPACITY = 2;
/** Rows to which every block is padded. */
export const GROUP_ALIGN = 3;
/** Address of u32[ranks + 1]: first instance of each rank. */
export const GROUP_RANK_FIRST = 4;
/** Address of u32[ranks, instances]: rows of every run before the capacity. */
export const GROUP_COUNTS = 5;
/** Address of u32[instances]: rows of every block before the capacity. */
export const GROUP_TOTALS = 6;
/** Address of u32[instances]: rows that ranks below the current one send, before the capacity. */
export const GROUP_BEFORE = 7;
/** Address of u32[instances]: first row of every block at its rank. */
export const GROUP_BLOCK_ROW = 8;
/** Address of u32[ranks]: rows of every receive buffer, padding included. */
export const GROUP_RECV_ROWS = 9;
export const GROUP_WORDS = 10;

// Job of `fillSendTable`: the runs of one source rank.
/** Address of u32[instances]: rows of this rank before the capacity. */
export const SEND_COUNTS = 0;
/** First instance whose rows are sent directly. */
export const SEND_DIRECT_FIRST = 1;
/** End of those instances. */
export const SEND_DIRECT_END = 2;
/** Address of u32[instances], out: first row of every run at its destination. */
export const SEND_ROW = 3;
/** Address of u32[instances], out: rows of every run. */
export const SEND_ROWS = 4;
/** Address of u32[instances], out: position in the send order - row (wraps). */
export const SEND_SHIFT = 5;
/** Out: rows of the send order. */
export const SEND_DIRECT_ROWS = 6;
export const SEND_WORDS = 7;

// Job of `fillForward`: the forwarded rows of one source rank.
/** Address of u16[tokens, topk]. */
export const FORWARD_ENTRY_INSTANCE = 0;
/** Address of i32[tokens, topk]. */
export const FORWARD_ENTRY_SLOT = 1;
export const FORWARD_TOKENS = 2;
export const FORWARD_TOPK = 3;
/** Address of u32[instances]: node << 16 | rank. */
export const FORWARD_OWNER = 4;
/** Node of the source rank. */
export const FORWARD_LOCAL_NODE = 5;
/** Address of one NODE block for each node. */
export const FORWARD_NODES = 6;
/** Address of u32[forwarded], out: S_FORWARD_TOKEN. */
export const FORWARD_TOKEN = 7;
/** Address of i32[forwarded], out: S_FORWARD_TARGET. */
export const FORWARD_TARGET = 8;
/** Address of u32[forwarded + 1], out: S_DISTRIBUTE_OFFSET but its last element. */
export const FORWARD_OFFSET = 9;
/** Address of u32[distributed], out: S_DISTRIBUTE_ENTRY. */
export const FORWARD_ENTRY = 10;
/** Address of u32[distributed + 1, FORWARD_LISTED_WORDS], scratch: the kept entries of other nodes. */
export const FORWARD_LIST = 11;
export const FORWARD_WORDS = 12;
export const FORWARD_LISTED_WORDS = 4;

// State of one node while a rank's tokens are processed; NEXT_ROW, NEXT_ENTRY, FORWARDER and LANDING are filled in
// before.
/** Token + 1 of the last row. */
export const NODE_STAMP = 0;
/** Next forwarded row. */
export const NODE_NEXT_ROW = 1;
/** Next distributed entry. */
export const NODE_NEXT_ENTRY = 2;
/** First distributed entry of the last row. */
export const NODE_ROW_ENTRY = 3;
/** The rank that forwards there. */
export const NODE_FORWARDER = 4;
/** Landing row - forwarded row (wraps). */
export const NODE_LANDING = 5;
/** A power of two. */
export const NODE_WORDS = 8;
