// From the facts (each rank's counts per instance) to the tables of a shard: block starts, send and run tables.
// Rows of an expert are ordered by (source rank, token, k), so every base row is a prefix sum over the facts.

import { MAX_ROWS } from '../format/layout';

/** sums[i] += counts[i] for n instances. Returns 1 where a sum passes MAX_ROWS, else 0. */
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
 * First row of every instance's block at its own rank.
 *
 * @param rankFirst u32[ranks + 1], first instance of each rank
 * @param totals    u32[instances], rows sent to each instance by all ranks, before the capacity
 * @param blockRow  u32[instances], out
 * @param recvRows  u32[ranks], out: rows of each receive buffer, padding included
 * @returns the first rank whose buffer passes MAX_ROWS, or `ranks` if none does
 */
export function layBlocks(
  ranks: u32,
  rankFirst: usize,
  totals: usize,
  capacity: u32,
  align: u32,
  blockRow: usize,
  recvRows: usize,
): u32 {
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
 * S_SEND_ROW and S_SEND_ROWS of one source rank, and the two tables that the passes over its entries need.
 *
 * @param before u32[instances], rows sent by lower ranks
 * @param own    u32[instances], rows of this rank before the capacity
 * @param next   u32[instances + 1], out: first row of each run, for assignSlots; the last is for masked entries
 * @param stream u32[instances], out: stream position - row of each run (wraps), for fillStream; only the
 *   instances [directFirst, directEnd) take part in the stream
 * @param direct address of one u32, out: rows of the stream
 * @returns rows that are kept
 */
export function fillSendTable(
  instances: u32,
  before: usize,
  own: usize,
  blockRow: usize,
  capacity: u32,
  sendRow: usize,
  sendRows: usize,
  next: usize,
  stream: usize,
  directFirst: u32,
  directEnd: u32,
  direct: usize,
): u32 {
  let position: u32 = 0;
  let total: u32 = 0;
  for (let i: u32 = 0; i < instances; i++) {
    const at = (<usize>i) << 2;
    const lower = kept(0, load<u32>(before + at), capacity);
    const rows = kept(load<u32>(before + at), load<u32>(own + at), capacity);
    const row = load<u32>(blockRow + at) + lower;
    store<u32>(sendRow + at, row);
    store<u32>(sendRows + at, rows);
    store<u32>(next + at, row);
    store<u32>(stream + at, position - row);
    if (i >= directFirst && i < directEnd) position += rows;
    total += rows;
  }
  store<u32>(next + ((<usize>instances) << 2), 0);
  store<u32>(direct, position);
  return total;
}

/**
 * S_RUN_ROW and S_RUN_ROWS of one destination rank, [local, ranks].
 *
 * @param counts u32[ranks, instances], the facts
 */
export function fillRunTable(
  ranks: u32,
  instances: u32,
  first: u32,
  local: u32,
  counts: usize,
  blockRow: usize,
  capacity: u32,
  runRow: usize,
  runRows: usize,
): void {
  for (let j: u32 = 0; j < local; j++) {
    const column = counts + ((<usize>(first + j)) << 2);
    const block = load<u32>(blockRow + ((<usize>(first + j)) << 2));
    let before: u32 = 0;
    for (let source: u32 = 0; source < ranks; source++) {
      const rows = load<u32>(column + ((<usize>source * <usize>instances) << 2));
      store<u32>(runRow, block + kept(0, before, capacity));
      store<u32>(runRows, kept(before, rows, capacity));
      before += rows;
      runRow += 4;
      runRows += 4;
    }
  }
}

/** S_EXPERT_OFFSET and S_EXPERT_ROWS of one destination rank. */
export function fillReceive(
  first: u32,
  local: u32,
  blockRow: usize,
  totals: usize,
  capacity: u32,
  recvRows: u32,
  expertOffset: usize,
  expertRows: usize,
): void {
  for (let j: u32 = 0; j < local; j++) {
    const at = (<usize>(first + j)) << 2;
    store<u32>(expertOffset, load<u32>(blockRow + at));
    store<u32>(expertRows, kept(0, load<u32>(totals + at), capacity));
    expertOffset += 4;
    expertRows += 4;
  }
  store<u32>(expertOffset, recvRows);
}
