// Hierarchical plans: forwarded rows, their landing rows, and what the forwarder distributes.

import { balance, forwardersOf } from '../balance.ts';
import { FuscoError } from '../errors.ts';
import { S_FORWARD_TOKEN } from '../format/layout.ts';
import type { Shard } from '../format/shard.ts';
import type { LandingTables } from '../landing.ts';
import type { Plan } from '../plan.ts';
import { nodeOf, type PlanSpec } from '../spec.ts';
import { sum } from '../totals.ts';
import { checkWord, Halt, halt } from './halt.ts';

/**
 * The rows that a rank claims to forward to the nodes add up to its rows. The landing rows of all ranks are derived from
 * these claims.
 */
export function checkForwardRows(shard: Shard, spec: PlanSpec, rank: number): void {
  if (spec.strategy !== 'hier') return;
  const { forwardRows } = shard;
  const forwarded = shard.count(S_FORWARD_TOKEN);
  const claimed = sum(forwardRows);
  if (claimed !== forwarded) {
    halt('E_FORWARD', rank, '/forward', `${forwarded} rows, the nodes hold ${claimed}`);
  }
  const local = nodeOf(spec, rank);
  if (forwardRows[local] !== 0) halt('E_FORWARD', rank, `/forwardRows/${local}`, 'rows for its own node');
}

/** The groups are those that the rule of the plan, or the best of the rules, gives for these rows. */
export function checkGroups(plan: Omit<Plan, 'shards'>, nodeRows: Uint32Array): void {
  const { spec, decision } = plan;
  if (spec.balance === 'none') return;
  const { rule, groups } = balance(spec.balance, spec, nodeRows);
  const path = '/header/core';
  if (rule !== decision.rule) {
    throw new Halt(
      new FuscoError('E_FORWARD', `rule ${decision.rule}, not ${rule}`, { path: `${path}/rule` }),
    );
  }
  const rank = groups.findIndex((group, i) => group !== decision.groups[i]);
  if (rank < 0) return;
  const text = `rank ${rank} is in group ${decision.groups[rank]}, not ${groups[rank]}`;
  throw new Halt(new FuscoError('E_FORWARD', text, { path: `${path}/groups/${rank}`, rank }));
}

/** Landing tables follow from what every rank claims to forward; checkForwardRows and checkForward prove that. */
export function checkLanding(shard: Shard, landing: LandingTables, rank: number): void {
  const expected = landing.of(rank);
  const tables: [string, Uint32Array, Uint32Array][] = [
    ['forwardRow', shard.forwardRow, expected.firstRow],
    ['stageRow', shard.stageRow, expected.sourceRow],
    ['stageRows', shard.stageRowsFrom, expected.sourceRows],
  ];
  for (const [name, found, wanted] of tables) {
    const at = wanted.findIndex((value, i) => value !== found[i]);
    if (at >= 0)
      halt('E_FORWARD', rank, `/${name}/${at}`, `${found[at]}, not ${wanted[at]}`, found[at]!, wanted[at]!);
  }
  checkWord(rank, 'stageRows', shard.stageRows, expected.localRows);
}

/**
 * Walks a rank's entries in the order (token, k) and expects each remote entry to be the next entry of the next row of
 * its node. Each row therefore crosses once, has each of its entries once, and lands where the forwarder expects it.
 */
export function checkForward(shard: Shard, plan: Omit<Plan, 'shards'>, rank: number): void {
  const { spec, decision } = plan;
  const { entrySlot, entryInstance, forwardRow, forwardRows, topk, instances } = shard;
  const { forwardToken, forwardTarget, distributeOffset, distributeEntry } = shard;
  const { instanceRank } = spec.placement;
  const instanceNode = instanceRank.map((owner) => nodeOf(spec, owner));
  const local = nodeOf(spec, rank);
  const forwarder = forwardersOf(spec, decision.groups, rank);
  const firstRow = new Float64Array(spec.nodes + 1);
  for (let node = 0; node < spec.nodes; node++) firstRow[node + 1] = firstRow[node]! + forwardRows[node]!;
  const nextRow = firstRow.slice(0, spec.nodes);
  const lastToken = new Int32Array(spec.nodes).fill(-1);
  const lastEntry = new Float64Array(spec.nodes);
  const landing = new Float64Array(forwardToken.length).fill(-1);
  for (let entry = 0; entry < entrySlot.length; entry++) {
    const slot = entrySlot[entry]!;
    const i = entryInstance[entry]!;
    if (slot < 0 || i >= instances) continue;
    const node = instanceNode[i]!;
    if (node === local) continue;
    const token = Math.floor(entry / topk);
    const isNew = lastToken[node] !== token;
    const row = isNew ? nextRow[node]!++ : nextRow[node]! - 1;
    if (row >= firstRow[node + 1]! || forwardToken[row] !== token) {
      halt('E_FORWARD', rank, `/forward/${row}`, `token ${forwardToken[row]}, not ${token} for node ${node}`);
    }
    const at = isNew ? distributeOffset[row]! : lastEntry[node]! + 1;
    const starts = row === 0 ? 0 : distributeOffset[row]!;
    if (at < starts || at >= distributeOffset[row + 1]! || distributeEntry[at] !== entry) {
      const text = `entry ${distributeEntry[at]}, not ${entry} of row ${row}`;
      halt('E_FORWARD', rank, `/distribute/${at}`, text);
    }
    lastToken[node] = token;
    lastEntry[node] = at;
    if (instanceRank[i] === forwarder[node] && (landing[row]! < 0 || slot < landing[row]!))
      landing[row] = slot;
  }
  checkRowEnds(shard, rank, nextRow, firstRow);
  let staged = 0;
  for (let node = 0; node < spec.nodes; node++) {
    for (let row = firstRow[node]!; row < firstRow[node + 1]!; row++) {
      const wanted = landing[row]! >= 0 ? landing[row]! : ~(forwardRow[node]! + row - firstRow[node]!);
      if (wanted < 0) staged++;
      if (forwardTarget[row] === wanted) continue;
      halt('E_FORWARD', rank, `/forward/${row}`, `lands at ${forwardTarget[row]}, not at ${wanted}`);
    }
  }
  checkWord(rank, 'staged', shard.staged, staged);
}

/** Every row of each node was reached, and the offsets cover the whole distribution list. */
function checkRowEnds(shard: Shard, rank: number, nextRow: Float64Array, firstRow: Float64Array): void {
  const { distributeOffset, distributeEntry, forwardToken, kept } = shard;
  nextRow.forEach((row, node) => {
    if (row === firstRow[node + 1]) return;
    halt('E_FORWARD', rank, `/forward/${row}`, `a row for node ${node} that no token needs`);
  });
  const rows = forwardToken.length;
  if (distributeOffset[0] !== 0 || distributeOffset[rows] !== distributeEntry.length) {
    const text = `offsets cover ${distributeOffset[rows]} of ${distributeEntry.length} entries`;
    halt('E_FORWARD', rank, '/distribute', text);
  }
  // Each remote entry was found once inside its row, rows do not overlap, and the lists contain nothing else.
  const direct = shard.sendEntry.length;
  checkWord(rank, 'direct and distributed entries', direct + distributeEntry.length, kept);
}
