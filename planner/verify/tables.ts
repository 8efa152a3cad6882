// A shard's head against the plan's options, and its tables against the other shards'.

import * as L from '../format/layout.ts';
import type { Shard } from '../format/shard.ts';
import type { PlanSpec } from '../spec.ts';
import { checkWord, halt } from './halt.ts';

/** Rows and entries that a shard sends directly and forwards, according to its head. */
interface ShardSizes {
  readonly direct: number;
  readonly forwarded: number;
  readonly distributed: number;
}

/** The destinations that a shard claims for its rows; in a flat plan all rows are sent directly. */
function sizesOf(shard: Shard, hier: boolean): ShardSizes {
  if (!hier) return { direct: shard.kept, forwarded: 0, distributed: 0 };
  const distributed = shard.count(L.S_DISTRIBUTE_ENTRY);
  return { direct: shard.kept - distributed, forwarded: shard.count(L.S_FORWARD_TOKEN), distributed };
}

/** Compares the words with the header, and the number of elements of every section with the words. */
export function checkHead(shard: Shard, spec: PlanSpec, rank: number): void {
  const { placement } = spec;
  const first = placement.rankFirst[rank]!;
  const expected: [string, number, number][] = [
    ['rank', shard.rank, rank],
    ['ranks', shard.ranks, spec.ranks],
    ['topk', shard.topk, spec.topk],
    ['instances', shard.instances, placement.instances],
    ['firstInstance', shard.firstInstance, first],
    ['localInstances', shard.localInstances, placement.rankFirst[rank + 1]! - first],
    ['kept + masked + dropped', shard.kept + shard.masked + shard.dropped, shard.entries],
    ['the reserved word', shard.reserved, 0],
    ['tileTokens', shard.tileTokens, spec.tileTokens],
  ];
  for (const [name, value, wanted] of expected) checkWord(rank, name, value, wanted);
  const local = shard.localInstances;
  const hier = spec.strategy === 'hier';
  const { direct, forwarded, distributed } = sizesOf(shard, hier);
  if (!hier) {
    checkWord(rank, 'stageRows', shard.stageRows, 0);
    checkWord(rank, 'staged', shard.staged, 0);
  }
  const sections: [number, number][] = [
    [L.S_EXPERT_OFFSET, local + 1],
    [L.S_EXPERT_ROWS, local],
    [L.S_RUN_ROW, local * spec.ranks],
    [L.S_RUN_ROWS, local * spec.ranks],
    [L.S_SEND_ROW, placement.instances],
    [L.S_SEND_ROWS, placement.instances],
    [L.S_ENTRY_SLOT, shard.entries],
    [L.S_ENTRY_INSTANCE, shard.entries],
    [L.S_SEND_ENTRY, direct],
    [L.S_FORWARD_ROW, hier ? spec.nodes : 0],
    [L.S_FORWARD_ROWS, hier ? spec.nodes : 0],
    [L.S_FORWARD_TOKEN, forwarded],
    [L.S_FORWARD_TARGET, forwarded],
    [L.S_DISTRIBUTE_OFFSET, hier ? forwarded + 1 : 0],
    [L.S_DISTRIBUTE_ENTRY, distributed],
    [L.S_STAGE_ROW, hier ? spec.ranks : 0],
    [L.S_STAGE_ROWS, hier ? spec.ranks : 0],
    [L.S_TILE_ORDER, spec.tileTokens > 0 ? shard.entries : 0],
  ];
  for (const [section, wanted] of sections) {
    checkWord(rank, `the length of section ${section}`, shard.count(section), wanted);
  }
  for (const section of [L.S_SLICE, L.S_FORWARD_SLICE]) {
    const words = shard.count(section);
    const wanted = hier || section === L.S_SLICE ? words - (words % L.SLICE_WORDS) : 0;
    checkWord(rank, `the length of section ${section}`, words, wanted);
  }
}

/** The receive side: blocks follow one another, aligned, and their runs tile them. */
export function checkReceive(shard: Shard, spec: PlanSpec, rank: number): void {
  const { expertOffset, expertRows, runRow, runRows } = shard;
  const { ranks, align, capacity } = spec;
  let block = 0;
  for (let j = 0; j < shard.localInstances; j++) {
    if (expertOffset[j] !== block) {
      const text = `the block starts at row ${expertOffset[j]}, not at ${block}`;
      halt('E_RUN_TABLE', rank, `/experts/${j}`, text);
    }
    let row = block;
    for (let source = 0; source < ranks; source++) {
      const run = j * ranks + source;
      if (runRow[run] !== row) {
        const text = `the run starts at row ${runRow[run]}, not at ${row}`;
        halt('E_RUN_TABLE', rank, `/runs/${j}/${source}`, text);
      }
      row += runRows[run]!;
    }
    if (row - block !== expertRows[j]) {
      const text = `the runs hold ${row - block} rows, the block ${expertRows[j]}`;
      halt('E_RUN_TABLE', rank, `/experts/${j}`, text);
    }
    if (capacity > 0 && row - block > capacity) {
      const text = `${row - block} rows > capacity ${capacity}`;
      halt('E_RUN_TABLE', rank, `/experts/${j}`, text, row - block, capacity);
    }
    block = Math.ceil(row / align) * align;
  }
  if (expertOffset[shard.localInstances] !== block || shard.recvRows !== block) {
    halt('E_RUN_TABLE', rank, '/experts', `the blocks end at row ${block}, the buffer at ${shard.recvRows}`);
  }
  if (block > L.MAX_ROWS)
    halt('E_LIMIT', rank, '/experts', `${block} rows > ${L.MAX_ROWS}`, block, L.MAX_ROWS);
}

/** Where one receiver stores the rows of each source rank. */
export interface RunTable {
  readonly runRow: Uint32Array;
  readonly runRows: Uint32Array;
}

/** Compares the run table of the sender with those of the receivers. */
export function checkSend(shard: Shard, runs: readonly RunTable[], spec: PlanSpec, rank: number): void {
  const { sendRow, sendRows, kept } = shard;
  const { rankFirst } = spec.placement;
  let total = 0;
  for (let peer = 0; peer < spec.ranks; peer++) {
    const first = rankFirst[peer]!;
    const { runRow, runRows } = runs[peer]!;
    for (let i = first; i < rankFirst[peer + 1]!; i++) {
      const run = (i - first) * spec.ranks + rank;
      total += sendRows[i]!;
      if (sendRow[i] === runRow[run] && sendRows[i] === runRows[run]) continue;
      const text = `sends rows ${sendRow[i]}+${sendRows[i]}, rank ${peer} expects ${runRow[run]}+${runRows[run]}`;
      halt('E_RUN_TABLE', rank, `/sendRuns/${i}`, text);
    }
  }
  if (total !== kept)
    halt('E_SHARD_HEAD', rank, '/head', `the runs hold ${total} rows, not ${kept}`, total, kept);
}
