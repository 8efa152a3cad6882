// From the facts (each rank's counts per instance) to the tables of a shard: block starts, send and run tables.
// Rows of an expert are ordered by (source rank, token, k), so every base row is a prefix sum over the facts.

import { MAX_ROWS } from '../format/layout';
import * as J from '../jobs';
import { slotTable } from './slots';

/** sums[i] += counts[i] for n instances. Returns 1 if a sum exceeds MAX_ROWS, else 0. */
export function addCounts(sums: usize, counts: usize, n: u32): u32 {
  let over: u32 = 0;
  for (let i: u32 = 0; i < n; i++) {
    const sum = <u64>load<u32>(sums) + <u64>load<u32>(counts);
    if (sum > <u64>MAX_ROWS) over = 1;
    store<u32>(sums, <u32>sum);
    sums += 4;
    counts += 4;
  }
  return over;
}

/** Rows of a run that fit under the capacity, given how many rows of the block come before it. */
function kept(before: u32, rows: u32, capacity: u32): u32 {
  if (capacity == 0 || before + rows <= capacity) return rows;
  return before >= capacity ? 0 : capacity - before;
}

function alignUp(row: u64, align: u32): u64 {
  const past = row % <u64>align;
  return past == 0 ? row : row + <u64>align - past;
}

/**
 * First row of every instance's block at its own rank: fills GROUP_BLOCK_ROW and GROUP_RECV_ROWS.
 *
 * @param group the GROUP block
 * @returns the first rank whose receive buffer exceeds MAX_ROWS, or `ranks` if none does
 */
export function layBlocks(group: usize): u32 {
  const ranks = load<u32>(group, J.GROUP_RANKS << 2);
  const capacity = load<u32>(group, J.GROUP_CAPACITY << 2);
  const align = load<u32>(group, J.GROUP_ALIGN << 2);
  const rankFirst = load<usize>(group, J.GROUP_RANK_FIRST << 2);
  const totals = load<usize>(group, J.GROUP_TOTALS << 2);
  const blockRow = load<usize>(group, J.GROUP_BLOCK_ROW << 2);
  const recvRows = load<usize>(group, J.GROUP_RECV_ROWS << 2);
  let instance = load<u32>(rankFirst);
  for (let rank: u32 = 0; rank < ranks; rank++) {
    const end = load<u32>(rankFirst + ((<usize>rank + 1) << 2));
    let row: u64 = 0;
    for (; instance < end; instance++) {
      const at = (<usize>instance) << 2;
      store<u32>(blockRow + at, <u32>row);
      row = alignUp(row + <u64>kept(0, load<u32>(totals + at), capacity), align);
      if (row > <u64>MAX_ROWS) return rank;
    }
    store<u32>(recvRows + ((<usize>rank) << 2), <u32>row);
  }
  return ranks;
}

/**
 * S_SEND_ROW and S_SEND_ROWS of one source rank, and two tables that the passes over its entries need: SEND_SHIFT, for
 * fillSendOrder, and the first row of each run in the slot table, for assignSlots.
 *
 * @param group the GROUP block; GROUP_BEFORE holds the rows of lower ranks
 * @param job   the SEND block
 * @returns rows that are kept
 */
export function fillSendTable(group: usize, job: usize): u32 {
  const instances = load<u32>(group, J.GROUP_INSTANCES << 2);
  const capacity = load<u32>(group, J.GROUP_CAPACITY << 2);
  const before = load<usize>(group, J.GROUP_BEFORE << 2);
  const blockRow = load<usize>(group, J.GROUP_BLOCK_ROW << 2);
  const counts = load<usize>(job, J.SEND_COUNTS << 2);
  const directFirst = load<u32>(job, J.SEND_DIRECT_FIRST << 2);
  const directEnd = load<u32>(job, J.SEND_DIRECT_END << 2);
  const sendRow = load<usize>(job, J.SEND_ROW << 2);
  const sendRows = load<usize>(job, J.SEND_ROWS << 2);
  const shift = load<usize>(job, J.SEND_SHIFT << 2);
  const next = slotTable();
  let position: u32 = 0;
  let total: u32 = 0;
  for (let i: u32 = 0; i < instances; i++) {
    const at = (<usize>i) << 2;
    const lower = kept(0, load<u32>(before + at), capacity);
    const rows = kept(load<u32>(before + at), load<u32>(counts + at), capacity);
    const row = load<u32>(blockRow + at) + lower;
    store<u32>(sendRow + at, row);
    store<u32>(sendRows + at, rows);
    store<u32>(next + at, row);
    store<u32>(shift + at, position - row);
    if (i >= directFirst && i < directEnd) position += rows;
    total += rows;
  }
  store<u32>(next + ((<usize>instances) << 2), 0);
  store<u32>(job, position, J.SEND_DIRECT_ROWS << 2);
  return total;
}

/** S_RUN_ROW and S_RUN_ROWS, [local, ranks], of the rank that hosts the `local` instances from `first` on. */
export function fillRunTable(group: usize, first: u32, local: u32, runRow: usize, runRows: usize): void {
  const ranks = load<u32>(group, J.GROUP_RANKS << 2);
  const instances = load<usize>(group, J.GROUP_INSTANCES << 2);
  const capacity = load<u32>(group, J.GROUP_CAPACITY << 2);
  const counts = load<usize>(group, J.GROUP_COUNTS << 2);
  const blockRow = load<usize>(group, J.GROUP_BLOCK_ROW << 2);
  for (let j: u32 = 0; j < local; j++) {
    const column = counts + ((<usize>(first + j)) << 2);
    const block = load<u32>(blockRow + ((<usize>(first + j)) << 2));
    let before: u32 = 0;
    for (let source: u32 = 0; source < ranks; source++) {
      const rows = load<u32>(column + ((<usize>source * instances) << 2));
      store<u32>(runRow, block + kept(0, before, capacity));
      store<u32>(runRows, kept(before, rows, capacity));
      before += rows;
      runRow += 4;
      runRows += 4;
    }
  }
}

/** S_EXPERT_OFFSET and S_EXPERT_ROWS of `rank`, which hosts the `local` instances from `first` on. */
export function fillReceive(
  group: usize,
  rank: u32,
  first: u32,
  local: u32,
  expertOffset: usize,
  expertRows: usize,
): void {
  const capacity = load<u32>(group, J.GROUP_CAPACITY << 2);
  const totals = load<usize>(group, J.GROUP_TOTALS << 2);
  const blockRow = load<usize>(group, J.GROUP_BLOCK_ROW << 2);
  for (let j: u32 = 0; j < local; j++) {
    const at = (<usize>(first + j)) << 2;
    store<u32>(expertOffset, load<u32>(blockRow + at));
    store<u32>(expertRows, kept(0, load<u32>(totals + at), capacity));
    expertOffset += 4;
    expertRows += 4;
  }
  store<u32>(expertOffset, load<u32>(load<usize>(group, J.GROUP_RECV_ROWS << 2) + ((<usize>rank) << 2)));
}
