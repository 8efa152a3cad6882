import type { Report } from './codec.ts';
import { type ErrorCode, FuscoError } from './errors.ts';
import {
  MAX_ROWS,
  S_DISTRIBUTE_ENTRY,
  S_DISTRIBUTE_OFFSET,
  S_ENTRY_INSTANCE,
  S_ENTRY_SLOT,
  S_EXPERT_OFFSET,
  S_EXPERT_ROWS,
  S_FORWARD_ROW,
  S_FORWARD_ROWS,
  S_FORWARD_SLICE,
  S_FORWARD_TARGET,
  S_FORWARD_TOKEN,
  S_RUN_ROW,
  S_RUN_ROWS,
  S_SEND_ENTRY,
  S_SEND_ROW,
  S_SEND_ROWS,
  S_SLICE,
  S_STAGE_ROW,
  S_STAGE_ROWS,
  S_TILE_ORDER,
  SLICE_WORDS,
  SLOT_DROPPED,
  SLOT_MASKED,
} from './layout.ts';
import { markVerified, type Plan, type VerifiedPlan } from './plan.ts';
import type { Shard } from './shard.ts';
import type { PlanSpec } from './spec.ts';

// One pass over everything that a plan says. The order of rows is fixed (expert, source rank, token, k), so
// verification does not hunt for holes and overlaps: it derives each row's only possible place from the run
// tables and compares. Run tables tile every receive buffer; entries fill their runs one by one; streams list
// the entries in run order; slices cut the streams. Combine reads the same slots that dispatch wrote.

/** Stops a shard's remaining checks after a defect was reported: what follows from it would only be noise. */
class Halt extends Error {}

function halt(
  code: ErrorCode,
  rank: number,
  path: string,
  text: string,
  value?: number,
  limit?: number,
): never {
  const details = { path: `/ranks/${rank}${path}`, rank, ...(value === undefined ? {} : { value }) };
  throw new Halt('', {
    cause: new FuscoError(code, text, limit === undefined ? details : { ...details, limit }),
  });
}

/**
 * Verifies a plan in O(rows). Afterwards every descriptor is in bounds, every receive row is written exactly once,
 * every (token, k) is delivered exactly once, masked or dropped, and combine is dispatch's inverse.
 *
 * @param report given, defects are reported, at most one per shard and stage, and undefined is returned if any
 * @throws FuscoError with the place of the first defect, where `report` is not given
 */
export function verifyPlan(plan: Plan): VerifiedPlan;
export function verifyPlan(plan: Plan, report: Report): VerifiedPlan | undefined;
export function verifyPlan(plan: Plan, report?: Report): VerifiedPlan | undefined {
  const { spec, shards } = plan;
  let sound = true;
  const attempt = (check: () => void): boolean => {
    try {
      check();
      return true;
    } catch (error) {
      if (!(error instanceof Halt)) throw error;
      if (report === undefined) throw error.cause;
      report(error.cause as FuscoError);
      sound = false;
      return false;
    }
  };
  if (shards.length !== spec.ranks) {
    throw new FuscoError('E_PLAN_HEADER', `${shards.length} shards for ${spec.ranks} ranks`);
  }
  for (const check of [checkHead, checkReceive]) {
    for (const [rank, shard] of shards.entries()) attempt(() => check(shard, spec, rank));
    if (!sound) return undefined;
  }
  // Views are made once: one per pair of ranks would be most of the work of a group of thousands.
  const runs = shards.map(({ runRow, runRows }): RunTable => ({ runRow, runRows }));
  for (const [rank, shard] of shards.entries()) attempt(() => checkSend(shard, runs, spec, rank));
  if (!sound) return undefined;
  for (const [rank, shard] of shards.entries()) {
    if (attempt(() => checkEntries(shards, spec, rank)) && attempt(() => checkStream(shard, spec, rank))) {
      attempt(() => checkSlices(shard, spec, rank));
    }
  }
  return sound ? markVerified(plan) : undefined;
}

/** Words against the header, and the number of elements of every section against the words. */
function checkHead(shard: Shard, spec: PlanSpec, rank: number): void {
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
    ['stageRows', shard.stageRows, 0],
    ['staged', shard.staged, 0],
    ['tileTokens', shard.tileTokens, 0],
  ];
  for (const [name, value, wanted] of expected) {
    if (value !== wanted)
      halt('E_SHARD_HEAD', rank, '/head', `${name} is ${value}, not ${wanted}`, value, wanted);
  }
  const local = shard.localInstances;
  const sections = new Map<number, number>([
    [S_EXPERT_OFFSET, local + 1],
    [S_EXPERT_ROWS, local],
    [S_RUN_ROW, local * spec.ranks],
    [S_RUN_ROWS, local * spec.ranks],
    [S_SEND_ROW, placement.instances],
    [S_SEND_ROWS, placement.instances],
    [S_ENTRY_SLOT, shard.entries],
    [S_ENTRY_INSTANCE, shard.entries],
    [S_SEND_ENTRY, shard.kept],
  ]);
  const empty = [
    S_FORWARD_ROW,
    S_FORWARD_ROWS,
    S_FORWARD_TOKEN,
    S_FORWARD_TARGET,
    S_DISTRIBUTE_OFFSET,
    S_DISTRIBUTE_ENTRY,
    S_FORWARD_SLICE,
    S_STAGE_ROW,
    S_STAGE_ROWS,
    S_TILE_ORDER,
  ];
  for (const section of empty) sections.set(section, 0);
  for (const [section, wanted] of sections) {
    const count = shard.count(section);
    if (count !== wanted) {
      halt(
        'E_SHARD_HEAD',
        rank,
        '/head',
        `section ${section} has ${count} elements, not ${wanted}`,
        count,
        wanted,
      );
    }
  }
  if (shard.count(S_SLICE) % SLICE_WORDS !== 0) {
    halt('E_SHARD_HEAD', rank, '/head', `section ${S_SLICE} is not a list of slices`);
  }
}

/** The receive side: blocks follow one another, aligned, and their runs tile them. */
function checkReceive(shard: Shard, spec: PlanSpec, rank: number): void {
  const { expertOffset, expertRows, runRow, runRows } = shard;
  const { ranks, align, capacity } = spec;
  let block = 0;
  for (let j = 0; j < shard.localInstances; j++) {
    if (expertOffset[j] !== block) {
      halt(
        'E_RUN_TABLE',
        rank,
        `/experts/${j}`,
        `the block starts at row ${expertOffset[j]}, not at ${block}`,
      );
    }
    let row = block;
    for (let source = 0; source < ranks; source++) {
      const run = j * ranks + source;
      if (runRow[run] !== row) {
        halt(
          'E_RUN_TABLE',
          rank,
          `/runs/${j}/${source}`,
          `the run starts at row ${runRow[run]}, not at ${row}`,
        );
      }
      row += runRows[run]!;
    }
    if (row - block !== expertRows[j]) {
      halt(
        'E_RUN_TABLE',
        rank,
        `/experts/${j}`,
        `the runs hold ${row - block} rows, the block ${expertRows[j]}`,
      );
    }
    if (capacity > 0 && row - block > capacity) {
      halt(
        'E_RUN_TABLE',
        rank,
        `/experts/${j}`,
        `${row - block} rows > capacity ${capacity}`,
        row - block,
        capacity,
      );
    }
    block = Math.ceil(row / align) * align;
  }
  if (expertOffset[shard.localInstances] !== block || shard.recvRows !== block) {
    halt('E_RUN_TABLE', rank, '/experts', `the blocks end at row ${block}, the buffer at ${shard.recvRows}`);
  }
  if (block > MAX_ROWS) halt('E_LIMIT', rank, '/experts', `${block} rows > ${MAX_ROWS}`, block, MAX_ROWS);
}

/** Where the rows of each source rank come to lie at one receiver. */
interface RunTable {
  readonly runRow: Uint32Array;
  readonly runRows: Uint32Array;
}

/** Sender's run table against the receivers'. */
function checkSend(shard: Shard, runs: readonly RunTable[], spec: PlanSpec, rank: number): void {
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
      halt(
        'E_RUN_TABLE',
        rank,
        `/sendRuns/${i}`,
        `sends rows ${sendRow[i]}+${sendRows[i]}, rank ${peer} expects ${runRow[run]}+${runRows[run]}`,
      );
    }
  }
  if (total !== kept)
    halt('E_SHARD_HEAD', rank, '/head', `the runs hold ${total} rows, not ${kept}`, total, kept);
}

/** Every entry has the only slot it can have: the next row of its run, masked, or dropped behind a full block. */
function checkEntries(shards: readonly Shard[], spec: PlanSpec, rank: number): void {
  const shard = shards[rank]!;
  const { entrySlot, entryInstance, sendRow, sendRows, topk, instances } = shard;
  const { instanceRank, instanceExpert, rankFirst } = spec.placement;
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
      const peer = shards[instanceRank[i]!]!;
      const block = peer.expertOffset[i - rankFirst[instanceRank[i]!]!]!;
      const full = spec.capacity > 0 && next[i] === end && end - block === spec.capacity;
      if (!full) halt('E_ENTRY', rank, `/entries/${entry}`, `dropped, though instance ${i} has room`);
      dropped++;
      continue;
    }
    if (slot < 0 || slot >= shards[instanceRank[i]!]!.recvRows) {
      const rows = shards[instanceRank[i]!]!.recvRows;
      halt(
        'E_SEGMENT_BOUNDS',
        rank,
        `/entries/${entry}`,
        slot < 0 ? `row ${slot} < 0` : `row ${slot} >= ${rows}`,
        slot,
        rows,
      );
    }
    if (slot !== next[i] || slot >= end) {
      halt(
        'E_ENTRY',
        rank,
        `/entries/${entry}`,
        `row ${slot} of instance ${i}, not ${next[i]} of ${sendRow[i]}..${end - 1}`,
        slot,
      );
    }
    next[i]!++;
  }
  if (masked !== shard.masked)
    halt('E_SHARD_HEAD', rank, '/head', `${masked} masked entries, not ${shard.masked}`);
  if (dropped !== shard.dropped) {
    halt('E_SHARD_HEAD', rank, '/head', `${dropped} dropped entries, not ${shard.dropped}`);
  }
  // kept + masked + dropped = entries and the runs hold `kept` rows, so every run is full here.
}

/** The stream lists the entries of each run, instance by instance. */
function checkStream(shard: Shard, spec: PlanSpec, rank: number): void {
  const { sendEntry, entrySlot, entryInstance, sendRow, sendRows, topk } = shard;
  let at = 0;
  let segments = 0;
  for (let i = 0; i < spec.placement.instances; i++) {
    const base = sendRow[i]!;
    let previous = -2;
    for (let row = 0; row < sendRows[i]!; row++, at++) {
      const entry = sendEntry[at]!;
      if (entry >= entrySlot.length) {
        halt(
          'E_SEGMENT_BOUNDS',
          rank,
          `/send/${at}`,
          `entry ${entry} >= ${entrySlot.length}`,
          entry,
          entrySlot.length,
        );
      }
      if (entryInstance[entry] !== i || entrySlot[entry] !== base + row) {
        const found = `instance ${entryInstance[entry]} row ${entrySlot[entry]}`;
        halt(
          'E_STREAM',
          rank,
          `/send/${at}`,
          `entry ${entry} goes to ${found}, not to instance ${i} row ${base + row}`,
        );
      }
      const token = (entry / topk) | 0;
      if (token !== previous + 1) segments++;
      previous = token;
    }
  }
  if (segments !== shard.segments) {
    halt(
      'E_SHARD_HEAD',
      rank,
      '/head',
      `${segments} segments, not ${shard.segments}`,
      segments,
      shard.segments,
    );
  }
}

/** The slices cut every peer's part of the stream, peers in the order rank, rank + 1, …, one slice a round. */
function checkSlices(shard: Shard, spec: PlanSpec, rank: number): void {
  const { slices, sendRows } = shard;
  const { ranks, sliceRows } = spec;
  const { rankFirst } = spec.placement;
  const first: number[] = [];
  const rows: number[] = [];
  let row = 0;
  for (let peer = 0; peer < ranks; peer++) {
    first.push(row);
    for (let i = rankFirst[peer]!; i < rankFirst[peer + 1]!; i++) row += sendRows[i]!;
    rows.push(row - first[peer]!);
  }
  // Only peers with rows left take part in a round, so that the work is that of the slices.
  const staggered = rows.map((_, step) => (rank + step) % ranks);
  let at = 0;
  for (let done = 0, peers = staggered; ; done += sliceRows) {
    peers = peers.filter((peer) => rows[peer]! > done);
    if (peers.length === 0) break;
    for (const peer of peers) {
      const wanted = [peer, first[peer]! + done, Math.min(rows[peer]! - done, sliceRows)];
      const found = [...slices.subarray(at, at + SLICE_WORDS)];
      if (found.join() !== wanted.join()) {
        halt('E_SLICE', rank, `/slices/${at / SLICE_WORDS}`, `peer,row,rows is ${found}, not ${wanted}`);
      }
      at += SLICE_WORDS;
    }
  }
  if (at !== slices.length) {
    halt('E_SLICE', rank, '/slices', `${slices.length / SLICE_WORDS} slices, not ${at / SLICE_WORDS}`);
  }
}
