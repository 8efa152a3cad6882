// Every row's place: entries fill their runs one by one, and the send order lists the entries in run order.

import { SLOT_DROPPED, SLOT_MASKED } from '../format/layout.ts';
import type { Shard } from '../format/shard.ts';
import { directInstances, type PlanSpec } from '../spec.ts';
import { checkWord, halt } from './halt.ts';

/** The tables with which the entries of other ranks must agree. */
export type Receiver = Pick<Shard, 'recvRows' | 'expertOffset'>;

/**
 * Every entry has the only slot it can have: the next row of its run, masked, or dropped behind a full block.
 *
 * @param receivers one per rank
 */
export function checkEntries(
  shard: Shard,
  receivers: readonly Receiver[],
  spec: PlanSpec,
  rank: number,
): void {
  const { entrySlot, entryInstance, sendRow, sendRows, topk, instances } = shard;
  const { instanceRank, instanceExpert, rankFirst } = spec.placement;
  const recvRows = new Uint32Array(instances);
  for (let i = 0; i < instances; i++) recvRows[i] = receivers[instanceRank[i]!]!.recvRows;
  const next = sendRow.slice();
  const lastToken = new Int32Array(spec.experts).fill(-1);
  let masked = 0;
  let dropped = 0;
  for (let entry = 0; entry < entrySlot.length; entry++) {
    const slot = entrySlot[entry]!;
    const i = entryInstance[entry]!;
    if (i >= instances) {
      if (i > instances)
        halt('E_SEGMENT_BOUNDS', rank, `/entries/${entry}`, `instance ${i} >= ${instances}`, i, instances);
      if (slot !== SLOT_MASKED)
        halt('E_ENTRY', rank, `/entries/${entry}`, `a masked entry has slot ${slot}`, slot);
      masked++;
      continue;
    }
    const token = (entry / topk) | 0;
    const expert = instanceExpert[i]!;
    if (lastToken[expert] === token)
      halt('E_ENTRY', rank, `/entries/${entry}`, `expert ${expert} twice in token ${token}`);
    lastToken[expert] = token;
    const end = sendRow[i]! + sendRows[i]!;
    if (slot === SLOT_DROPPED) {
      const peer = receivers[instanceRank[i]!]!;
      const block = peer.expertOffset[i - rankFirst[instanceRank[i]!]!]!;
      const full = spec.capacity > 0 && next[i] === end && end - block === spec.capacity;
      if (!full) halt('E_ENTRY', rank, `/entries/${entry}`, `dropped, though instance ${i} has room`);
      dropped++;
      continue;
    }
    if (slot < 0 || slot >= recvRows[i]!) {
      const rows = recvRows[i]!;
      const text = slot < 0 ? `row ${slot} < 0` : `row ${slot} >= ${rows}`;
      halt('E_SEGMENT_BOUNDS', rank, `/entries/${entry}`, text, slot, rows);
    }
    if (slot !== next[i] || slot >= end) {
      const text = `row ${slot} of instance ${i}, not ${next[i]} of ${sendRow[i]}..${end - 1}`;
      halt('E_ENTRY', rank, `/entries/${entry}`, text, slot);
    }
    next[i]!++;
  }
  checkWord(rank, 'masked', shard.masked, masked);
  checkWord(rank, 'dropped', shard.dropped, dropped);
  // kept + masked + dropped = entries and the runs hold `kept` rows, so every run is full here.
}

/** The send order lists the entries of each direct run, instance by instance. */
export function checkSendOrder(shard: Shard, spec: PlanSpec, rank: number): void {
  const { sendEntry, entrySlot, entryInstance, sendRow, sendRows } = shard;
  const { first, end } = directInstances(spec, rank);
  let at = 0;
  for (let i = first; i < end; i++) {
    const base = sendRow[i]!;
    for (let row = 0; row < sendRows[i]!; row++, at++) {
      const entry = sendEntry[at]!;
      if (entry >= entrySlot.length) {
        const text = `entry ${entry} >= ${entrySlot.length}`;
        halt('E_SEGMENT_BOUNDS', rank, `/send/${at}`, text, entry, entrySlot.length);
      }
      if (entryInstance[entry] !== i || entrySlot[entry] !== base + row) {
        const found = `instance ${entryInstance[entry]} row ${entrySlot[entry]}`;
        const text = `entry ${entry} goes to ${found}, not to instance ${i} row ${base + row}`;
        halt('E_STREAM', rank, `/send/${at}`, text);
      }
    }
  }
}
