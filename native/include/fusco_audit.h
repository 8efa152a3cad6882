/**
 * @file
 * The referee: given a routing, what any library's receive buffers and combined rows must hold, and what is
 * in them instead.
 *
 * A layout says where a library puts rows. With a plan it expands to a table of origins: for each row of a
 * receive buffer the source rank, token and k that belong there. Rows are compared byte for byte; what
 * differs is classified. Combined rows are compared with an error bound that is computed for each element
 * from its operands, and with the results of several orders of addition, bit for bit.
 *
 * The conventions of fusco.h apply; all memory is host memory. Calls on one audit take turns.
 */
#ifndef FUSCO_AUDIT_H
#define FUSCO_AUDIT_H

#include "fusco_planning.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * @name Layouts
 * @{
 */

/** How a receive buffer is divided. Every block starts where the one before it ends. */
typedef enum fusco_audit_blocks FUSCO_ENUM {
  FUSCO_AUDIT_BLOCKS_EXPERT = 0, /**< one block for each expert of the rank, in ascending id */
  FUSCO_AUDIT_BLOCKS_SOURCE = 1, /**< one block for each source rank, in ascending rank */
  FUSCO_AUDIT_BLOCKS_ONE = 2     /**< a single block */
} fusco_audit_blocks;

/** Order of the rows of a block. */
typedef enum fusco_audit_row_order FUSCO_ENUM {
  FUSCO_AUDIT_ROWS_SORTED = 0, /**< by source rank, token and k */
  FUSCO_AUDIT_ROWS_ANY = 1     /**< not specified: each row must be there once */
} fusco_audit_row_order;

/** What rows hold that belong to no token. */
typedef enum fusco_audit_filler FUSCO_ENUM {
  FUSCO_AUDIT_FILLER_ZERO = 0, /**< zeros */
  FUSCO_AUDIT_FILLER_ANY = 1   /**< not specified, and not looked at */
} fusco_audit_filler;

/** Value of fusco_audit_layout.slots: the blocks divide the rows of the buffer equally. */
#define FUSCO_AUDIT_SLOTS_EQUAL UINT64_MAX

/** Where a library puts rows, and how it adds them. */
typedef struct fusco_audit_layout {
  uint32_t struct_size;        /**< sizeof(fusco_audit_layout) */
  fusco_per per;               /**< PER_ENTRY: one row per (token, k); PER_TOKEN: one per token and rank */
  fusco_audit_blocks blocks;   /**< PER_TOKEN has no blocks by expert */
  fusco_audit_row_order order; /**< inside a block */
  uint32_t align;              /**< rows to which each block is padded; 0: the align of the plan */
  fusco_audit_filler padding;  /**< rows of a block behind its last token */
  /** Rows behind the last block. ANY: the buffer may be larger than the layout needs. ZERO: it may not. */
  fusco_audit_filler tail;
  uint64_t slots; /**< rows of every block, at most 2147483647; 0: as many as it needs; or SLOTS_EQUAL */
  /** Dtype in which combine multiplies and adds: F32, or BYTES for the dtype of the rows. */
  fusco_dtype accumulate;
  /** Most partial sums on the way of a row that are rounded to the dtype of the rows, 0..8: 1 if a rank or a
   * node adds rows before it sends the sum. The final rounding is not counted. */
  uint32_t partials;
} fusco_audit_layout;

/**
 * Name of a known layout.
 *
 * @param[in] index  0, 1, …
 * @return a static string; NULL behind the last one
 */
const char *fusco_audit_layout_name(uint32_t index);

/**
 * A known layout: "fusco", and those of other libraries, which docs/audit.md lists with their sources.
 *
 * @param[in]     name    of fusco_audit_layout_name
 * @param[in,out] layout  with its struct_size
 * @param[out]    error   may be NULL
 * @retval FUSCO_E_OPTION  there is no such layout
 */
fusco_status fusco_audit_layout_find(const char *name, fusco_audit_layout *layout, fusco_error *error);
/** @} */

/**
 * @name Audits
 * @{
 */

typedef struct fusco_audit fusco_audit; /**< a plan's entries in a layout, with the rows to compare with */

/**
 * An audit of the exchanges of a plan.
 *
 * @param[in]  plan    copied; may be closed afterwards
 * @param[in]  layout  read during the call only
 * @param[out] audit   destroy it with fusco_audit_destroy; unchanged after a failure
 * @param[out] error   may be NULL
 * @retval FUSCO_E_OPTION  a field of the layout is out of range, or contradicts another one
 */
fusco_status fusco_audit_create(const fusco_plan_file *plan, const fusco_audit_layout *layout,
                                fusco_audit **audit, fusco_error *error);

/**
 * An audit of the exchanges of a routing, which is planned first.
 *
 * @param[in]  options  of the plan; strategy is not AUTO
 * @param[in]  ids      [ranks]: the ids of all ranks; read during the call only
 * @param[in]  layout   read during the call only
 * @param[out] audit    destroy it with fusco_audit_destroy; unchanged after a failure
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  a field of the layout is out of range, or contradicts another one
 * @retval other           as fusco_planner_create and fusco_planner_count
 */
fusco_status fusco_audit_create_from_ids(const fusco_plan_options *options, const fusco_ids *ids,
                                         const fusco_audit_layout *layout, fusco_audit **audit,
                                         fusco_error *error);

/**
 * Releases an audit.
 *
 * @param[in] audit  NULL is allowed
 */
void fusco_audit_destroy(fusco_audit *audit);

/**
 * Rows that a rank's receive buffer has at least.
 *
 * @param[in]  audit  the audit
 * @param[in]  rank   0..ranks - 1
 * @param[out] rows   with padding, without a tail. With FUSCO_AUDIT_SLOTS_EQUAL: all blocks as long as the
 *                    longest
 * @param[out] error  may be NULL
 * @retval FUSCO_E_OPTION  there is no such rank
 * @retval FUSCO_E_LIMIT   a block has more rows than the layout has slots
 */
fusco_status fusco_audit_rows(const fusco_audit *audit, uint32_t rank, uint64_t *rows, fusco_error *error);

/** First word of an origin: a row of zeros. */
#define FUSCO_AUDIT_PADDING (-1)
/** First word of an origin: a row whose contents the layout does not specify. */
#define FUSCO_AUDIT_UNSPECIFIED (-2)

/**
 * The table of origins of a rank's receive buffer.
 *
 * @param[in]  audit    the audit
 * @param[in]  rank     0..ranks - 1
 * @param[in]  rows     rows of the buffer: fusco_audit_rows, or more where the layout allows a tail
 * @param[out] origins  i32 [rows, 3]: source rank, token and k of each row; k is -1 where a row stands for
 *                      all k of its token on this rank. In blocks of no specified order: by source rank,
 *                      token and k. The source rank may be FUSCO_AUDIT_PADDING or FUSCO_AUDIT_UNSPECIFIED
 * @param[in]  bytes    length of origins
 * @param[out] error    may be NULL
 * @retval FUSCO_E_OPTION  there is no such rank
 * @retval FUSCO_E_LIMIT   a block has more rows than the layout has slots
 * @retval FUSCO_E_BUFFER  origins is too small, or rows is no size of this layout
 */
fusco_status fusco_audit_origins(const fusco_audit *audit, uint32_t rank, uint64_t rows, int32_t *origins,
                                 uint64_t bytes, fusco_error *error);

/** The rows that were dispatched. */
typedef struct fusco_audit_input {
  uint32_t struct_size;     /**< sizeof(fusco_audit_input) */
  fusco_dtype dtype;        /**< of the rows, received ones too; BYTES and FP8 cannot be combined */
  uint64_t row_bytes;       /**< 1..16777216; whole elements */
  const fusco_buffer *rows; /**< [ranks]: [tokens, row_bytes] */
  /** NULL or [ranks]: the rows of the step before, to recognize what was left over; any number of rows. */
  const fusco_buffer *previous;
} fusco_audit_input;

/**
 * Sets the rows to compare with. They are borrowed: they must stay valid and unchanged until the next call of
 * this function, or until the audit is destroyed.
 *
 * @param[in,out] audit  the audit
 * @param[in]     input  the rows of all ranks
 * @param[out]    error  may be NULL
 * @retval FUSCO_E_OPTION  row_bytes is out of range
 * @retval FUSCO_E_DTYPE   dtype has no name, or row_bytes is not a whole number of its elements
 * @retval FUSCO_E_BUFFER  the rows of a rank are fewer than its tokens, or a buffer with bytes has no data
 */
fusco_status fusco_audit_set_input(fusco_audit *audit, const fusco_audit_input *input, fusco_error *error);
/** @} */

/**
 * @name Verdicts
 * @{
 */

/** What is wrong with a row. */
typedef enum fusco_audit_kind FUSCO_ENUM {
  FUSCO_AUDIT_OTHER_TOKEN = 0,   /**< the row of another token; found says which */
  FUSCO_AUDIT_ZEROS = 1,         /**< zeros in place of a token */
  FUSCO_AUDIT_STALE = 2,         /**< a row of the step before; found says which */
  FUSCO_AUDIT_PARTIAL = 3,       /**< one part of the row is right; found says what the other part is */
  FUSCO_AUDIT_ROUNDING = 4,      /**< every element differs by no more than a narrower format explains */
  FUSCO_AUDIT_NAN = 5,           /**< NaN where a number belongs */
  FUSCO_AUDIT_VALUES = 6,        /**< other values, which none of the other kinds explains */
  FUSCO_AUDIT_PADDING_DIRTY = 7, /**< padding that is not zero */
  FUSCO_AUDIT_MISSING = 8,       /**< the buffer ends before this row */
  FUSCO_AUDIT_EXTRA = 9,         /**< a row behind the last one of the layout */
  FUSCO_AUDIT_DUPLICATE = 10,    /**< a row that is there already, in a block of no specified order */
  FUSCO_AUDIT_TERM_MISSING = 11, /**< combine without the row of one k */
  FUSCO_AUDIT_TERM_TWICE = 12,   /**< combine with the row of one k added twice */
  FUSCO_AUDIT_UNWEIGHTED = 13,   /**< combine without weights */
  FUSCO_AUDIT_SCALED = 14        /**< combine whose elements are all multiplied by one factor */
} fusco_audit_kind;

/** Number of kinds. */
#define FUSCO_AUDIT_KINDS 15

/**
 * Name of a kind.
 *
 * @param[in] kind  any value
 * @return "other-token" for FUSCO_AUDIT_OTHER_TOKEN; "" for an unknown value. A static string
 */
const char *fusco_audit_kind_name(fusco_audit_kind kind);

/** What a wrong row, or the wrong part of it, was recognized as. */
typedef enum fusco_audit_found FUSCO_ENUM {
  FUSCO_AUDIT_FOUND_UNKNOWN = 0,  /**< nothing that is known */
  FUSCO_AUDIT_FOUND_ZEROS = 1,    /**< zeros */
  FUSCO_AUDIT_FOUND_TOKEN = 2,    /**< a token of this step */
  FUSCO_AUDIT_FOUND_PREVIOUS = 3, /**< a token of the step before */
  FUSCO_AUDIT_FOUND_NOTHING = 4   /**< the buffer has no such row */
} fusco_audit_found;

/** A row that is wrong. It has no struct_size: it never changes. */
typedef struct fusco_audit_difference {
  uint64_t row;            /**< of the receive buffer (slot), or the token of a combine */
  int32_t source;          /**< expected source rank; -1: padding, or no row */
  int32_t token;           /**< expected token; -1 likewise */
  int32_t k;               /**< expected k; -1: any. For TERM_MISSING and TERM_TWICE: the k of that term */
  fusco_audit_kind kind;   /**< what is wrong */
  fusco_audit_found found; /**< what is there instead */
  int32_t found_source;    /**< source rank of what is there; -1: unknown */
  int32_t found_token;     /**< its token; -1: unknown */
  uint32_t precision;      /**< ROUNDING of a dispatch: significant bits that explain it; else 0 */
  uint64_t first_byte;     /**< first byte of the row that differs */
  uint64_t end_byte;       /**< one behind the last byte that differs */
  double factor;           /**< SCALED: the factor; else 0 */
} fusco_audit_difference;

/** What an audit of one rank found. */
typedef struct fusco_audit_report {
  uint32_t struct_size; /**< sizeof(fusco_audit_report) */
  uint32_t listed;      /**< differences that were written to the caller's array */
  uint64_t rows;        /**< rows that were looked at */
  uint64_t wrong;       /**< rows that differ */
  /** Combine: bit i is 1 if the order of addition i gives the bits of all rows that are within the bound. */
  uint64_t orders;
  /** Combine: rows that differ from the requested order and are within the bound. */
  uint64_t reordered;
  double largest_error; /**< combine: largest error of a row within the bound, as a part of the bound, 0..1 */
  uint64_t counts[FUSCO_AUDIT_KINDS]; /**< rows that differ, by kind */
} fusco_audit_report;

/** A rank's receive buffer. */
typedef struct fusco_audit_dispatch_call {
  uint32_t struct_size;  /**< sizeof(fusco_audit_dispatch_call) */
  uint32_t rank;         /**< the rank that received */
  fusco_buffer received; /**< in: [rows, row_bytes] */
  /** out, NULL or [difference_count]: the first rows that are wrong, in ascending row. */
  fusco_audit_difference *differences;
  uint32_t difference_count; /**< elements of differences */
} fusco_audit_dispatch_call;

/**
 * Compares a receive buffer with the origins of its rows, in one pass.
 *
 * @param[in,out] audit   the audit, with its input
 * @param[in]     call    the buffer
 * @param[in,out] report  with its struct_size
 * @param[out]    error   may be NULL
 * @retval FUSCO_E_OPTION  there is no such rank, or no input was set
 * @retval FUSCO_E_LIMIT   a block has more rows than the layout has slots
 * @retval FUSCO_E_BUFFER  received is no whole number of rows, or its blocks are not equal
 */
fusco_status fusco_audit_dispatch(fusco_audit *audit, const fusco_audit_dispatch_call *call,
                                  fusco_audit_report *report, fusco_error *error);
/** @} */

/**
 * @name Combine
 * An element is right if it lies within a bound on the rounding errors of its sum: n products of operands
 * that are known, added in any order, each product and sum rounded to `accumulate`, and at most `partials`
 * partial sums and the result rounded to the dtype of the rows.
 * @{
 */

/**
 * Name of an order of addition. All start from +0 and round the result once to the dtype of the rows; zeros
 * of either sign count as the same bits, and so do all NaNs.
 *
 * @param[in] index  0, 1, …
 * @return a static string such as "k" or "rank-rounded"; docs/audit.md describes each. NULL behind the last
 */
const char *fusco_audit_order_name(uint32_t index);

/** A rank's combined rows. */
typedef struct fusco_audit_combine_call {
  uint32_t struct_size;  /**< sizeof(fusco_audit_combine_call) */
  uint32_t rank;         /**< the rank whose tokens were combined */
  fusco_buffer combined; /**< in: [tokens, row_bytes] */
  fusco_buffer weights;  /**< in: f32 [tokens, topk]; data NULL: not weighted */
  /** NULL: the experts return their rows, which are those of the input. Else in, [ranks]: [rows, row_bytes],
   * what the experts return, in the layout, whose rows must be sorted. */
  const fusco_buffer *outputs;
  /** Index of an order of addition that must give the bits of every row, plus 1; 0: any order. */
  uint32_t order;
  uint32_t difference_count; /**< elements of differences */
  /** out, NULL or [difference_count]: the first rows that are wrong, in ascending token. */
  fusco_audit_difference *differences;
} fusco_audit_combine_call;

/**
 * Compares combined rows with what can come out. A row is wrong if an element is outside its bound, or, if an
 * order was requested, has other bits. In a layout with one row per token and rank each rank returns one row:
 * without weights the terms of a sum are its ranks, and outputs were weighted before.
 *
 * @param[in,out] audit   the audit, with its input
 * @param[in]     call    the buffers
 * @param[in,out] report  with its struct_size
 * @param[out]    error   may be NULL
 * @retval FUSCO_E_OPTION  there is no such rank or order, no input was set, or outputs need sorted rows or
 *                         no weights
 * @retval FUSCO_E_DTYPE   rows of this dtype cannot be added
 * @retval FUSCO_E_BUFFER  a buffer is too small
 */
fusco_status fusco_audit_combine(fusco_audit *audit, const fusco_audit_combine_call *call,
                                 fusco_audit_report *report, fusco_error *error);
/** @} */

#ifdef __cplusplus
}
#endif
#endif
