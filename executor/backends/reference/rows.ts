// Reads from a plan's descriptors where each row goes.

import { FuscoError } from '../../../planner/errors.ts';
import type { Shard } from '../../../planner/format/shard.ts';
import type { Plan } from '../../../planner/plan.ts';
import { nodeOf } from '../../../planner/spec.ts';
import { forwardedRows } from '../../../planner/walk.ts';
import { bytesOf as bytesOfView, isExternal } from '../../memory.ts';
import type { Memory } from '../types.ts';

export function bytesOf(memory: Memory): Uint8Array {
  if (!isExternal(memory)) return bytesOfView(memory);
  throw new FuscoError('E_BUFFER', 'the reference backend cannot reach memory by its address', {
    hint: 'Give a typed array, or use the host or cuda backend.',
  });
}

/** Throws E_BUFFER if a buffer is only an address, before anything is written. */
export function refuseExternal(lists: readonly (readonly Memory[] | undefined)[]): void {
  for (const memories of lists) memories?.forEach(bytesOf);
}

/** One kept (token, k) of a source rank. */
export interface Copy {
  readonly source: number;
  readonly token: number;
  readonly k: number;
  readonly entry: number;
  /** Destination rank, its node, and row. */
  readonly rank: number;
  readonly node: number;
  readonly slot: number;
}

/** The kept entry `entry` of a rank, or undefined if it is masked or dropped. */
function copyOf(plan: Plan, shard: Shard, entry: number): Copy | undefined {
  const slot = shard.entrySlot[entry]!;
  if (slot < 0) return undefined;
  const rank = plan.spec.placement.instanceRank[shard.entryInstance[entry]!]!;
  const token = Math.floor(entry / shard.topk);
  return {
    source: shard.rank,
    token,
    k: entry % shard.topk,
    entry,
    rank,
    node: nodeOf(plan.spec, rank),
    slot,
  };
}

/** The kept entries of a rank, in the order (token, k). */
export function* copiesOf(plan: Plan, shard: Shard): Generator<Copy> {
  for (let entry = 0; entry < shard.entries; entry++) {
    const copy = copyOf(plan, shard, entry);
    if (copy !== undefined) yield copy;
  }
}

/** The rows that a rank sends straight to their slots, in its send order. */
export function* directCopies(plan: Plan, shard: Shard): Generator<Copy> {
  for (const entry of shard.sendEntry) yield copyOf(plan, shard, entry)!;
}

/** One row on its way to another node. */
export interface ForwardedCopies {
  readonly token: number;
  readonly forwarder: number;
  /** Slot at the forwarder, or ~(landing row). */
  readonly target: number;
  /** The entries that the forwarder distributes, including the one of the landing slot. */
  readonly copies: readonly Copy[];
}

/** The rows that a rank sends to other nodes, by node and token; none in a flat plan. */
export function* forwardedCopies(plan: Plan, shard: Shard): Generator<ForwardedCopies> {
  for (const { token, forwarder, target, firstEntry, endEntry } of forwardedRows(plan, shard.rank)) {
    const entries = shard.distributeEntry.subarray(firstEntry, endEntry);
    const copies = Array.from(entries, (entry) => copyOf(plan, shard, entry)!);
    yield { token, forwarder, target, copies };
  }
}
