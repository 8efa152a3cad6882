// Slices divide a send order. Peers are staggered, so that no two ranks start with the same one.

import { SLICE_WORDS } from '../format/layout.ts';
import type { Shard } from '../format/shard.ts';
import { directInstances, nodeOf, type PlanSpec } from '../spec.ts';
import { halt } from './halt.ts';

/**
 * Slices cover each peer's rows, one slice for each peer and round, peers in the order local, local + 1, … modulo their
 * number.
 *
 * @param rows rows of each peer's part of the send order; the parts follow one another
 * @param local this rank's or node's index among the peers
 * @param first rank or node of peer 0
 */
function checkSlices(
  slices: Uint32Array,
  rank: number,
  path: string,
  rows: readonly number[],
  local: number,
  first: number,
  sliceRows: number,
): void {
  const starts: number[] = [];
  let row = 0;
  for (const count of rows) {
    starts.push(row);
    row += count;
  }
  // Only peers with remaining rows take part in a round, so that the work is proportional to the number of slices.
  const staggered = rows.map((_, i) => (local + i) % rows.length);
  let at = 0;
  for (let done = 0, peers = staggered; ; done += sliceRows) {
    peers = peers.filter((peer) => rows[peer]! > done);
    if (peers.length === 0) break;
    for (const peer of peers) {
      const wanted = [first + peer, starts[peer]! + done, Math.min(rows[peer]! - done, sliceRows)];
      const found = [...slices.subarray(at, at + SLICE_WORDS)];
      if (found.join() !== wanted.join()) {
        halt('E_SLICE', rank, `${path}/${at / SLICE_WORDS}`, `peer,row,rows is ${found}, not ${wanted}`);
      }
      at += SLICE_WORDS;
    }
  }
  if (at !== slices.length) {
    halt('E_SLICE', rank, path, `${slices.length / SLICE_WORDS} slices, not ${at / SLICE_WORDS}`);
  }
}

export function checkDirectSlices(shard: Shard, spec: PlanSpec, rank: number): void {
  const { rankFirst, instanceRank } = spec.placement;
  const { slices, sendRows } = shard;
  const { firstRank, endRank } = directInstances(spec, rank);
  const rows = new Array<number>(endRank - firstRank).fill(0);
  for (let i = rankFirst[firstRank]!; i < rankFirst[endRank]!; i++) {
    rows[instanceRank[i]! - firstRank]! += sendRows[i]!;
  }
  checkSlices(slices, rank, '/slices', rows, rank - firstRank, firstRank, spec.sliceRows);
}

export function checkForwardSlices(shard: Shard, spec: PlanSpec, rank: number): void {
  const local = nodeOf(spec, rank);
  checkSlices(shard.forwardSlices, rank, '/forwardSlices', [...shard.forwardRows], local, 0, spec.sliceRows);
}

/**
 * Each tile's order holds every entry of it once, by (instance, slot), entries without a slot last, in ascending order.
 */
export function checkTileOrder(shard: Shard, spec: PlanSpec, rank: number): void {
  const { tileOrder, entrySlot, entryInstance } = shard;
  const tile = spec.tileTokens * spec.topk;
  if (tile === 0) return;
  for (let first = 0; first < tileOrder.length; first += tile) {
    const count = Math.min(tile, tileOrder.length - first);
    let before = -1;
    for (let i = 0; i < count; i++) {
      const at = tileOrder[first + i]!;
      const follows = at < count && (before < 0 || isBefore(first + before, first + at));
      // Entries differ, so a strictly ascending order contains each of them at most once, and therefore exactly once.
      if (!follows)
        halt('E_STREAM', rank, `/tileOrder/${first + i}`, `entry ${at} of the tile is out of order`);
      before = at;
    }
  }

  function isBefore(a: number, b: number): boolean {
    const slotA = entrySlot[a]!;
    const slotB = entrySlot[b]!;
    if (slotA < 0 || slotB < 0) return slotA >= 0 || (slotB < 0 && a < b);
    const instances = entryInstance[a]! - entryInstance[b]!;
    return instances < 0 || (instances === 0 && slotA < slotB);
  }
}
