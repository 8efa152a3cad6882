// Checks of an execution that use neither the slots that the executor read nor its code: received rows are traced
// through the receiver's run tables to the senders' choices, and combined rows are computed from the input alone.

import { type FloatDtype, rowCodec } from '../../executor/numeric.ts';
import { SLOT_DROPPED } from '../../planner/format/layout.ts';
import type { Shard } from '../../planner/format/shard.ts';
import type { Plan } from '../../planner/plan.ts';
import { nodeOf, sumsByNode } from '../../planner/spec.ts';

/** The first byte or row that differs from the expected one. */
export interface Mismatch {
  readonly what: 'received' | 'combined';
  readonly rank: number;
  readonly row: number;
}

/**
 * A sender's entries by instance, each instance's in the order (token, k): the rows that its runs must contain, in order.
 */
interface SentEntries {
  readonly entries: Uint32Array;
  /** First of each instance's entries. */
  readonly starts: Uint32Array;
}

function sentEntries({ entryInstance, instances }: Shard): SentEntries {
  const starts = new Uint32Array(instances + 2);
  for (const instance of entryInstance) starts[instance + 1]!++;
  for (let i = 1; i < starts.length; i++) starts[i]! += starts[i - 1]!;
  const next = starts.slice();
  const entries = new Uint32Array(entryInstance.length);
  for (const [entry, instance] of entryInstance.entries()) entries[next[instance]!++] = entry;
  return { entries, starts };
}

/**
 * Compares every byte of the receive buffers, padding included, with the input rows.
 *
 * @param input per rank [tokens, rowBytes]
 * @param received per rank [recvRows, rowBytes]; ranks that are missing are not compared
 */
export function findReceiveMismatch(
  plan: Plan,
  input: readonly Uint8Array[],
  received: readonly Uint8Array[],
  rowBytes: number,
): Mismatch | undefined {
  const { ranks, topk } = plan.spec;
  const sent = plan.shards.map(sentEntries);
  const zeros = Buffer.alloc(rowBytes);
  for (const shard of plan.shards) {
    const { rank, runRow, runRows, expertOffset } = shard;
    if (received[rank] === undefined) continue;
    const buffer = Buffer.from(
      received[rank]!.buffer,
      received[rank]!.byteOffset,
      received[rank]!.byteLength,
    );
    const differs = (row: number, other: Uint8Array, at: number) =>
      buffer.compare(other, at, at + rowBytes, row * rowBytes, (row + 1) * rowBytes) !== 0;
    for (let j = 0; j < shard.localInstances; j++) {
      let row = expertOffset[j]!;
      for (let source = 0; source < ranks; source++) {
        const { entries, starts } = sent[source]!;
        const at = starts[shard.firstInstance + j]!;
        const run = j * ranks + source;
        row = runRow[run]!;
        for (let i = 0; i < runRows[run]!; i++, row++) {
          const token = Math.floor(entries[at + i]! / topk);
          if (differs(row, input[source]!, token * rowBytes)) return { what: 'received', rank, row };
        }
      }
      for (; row < expertOffset[j + 1]!; row++) {
        if (differs(row, zeros, 0)) return { what: 'received', rank, row };
      }
    }
  }
  return undefined;
}

/** The kept entries of a token in the order of combine's additions: one group, or one per node in ascending order. */
function termsOf(plan: Plan, shard: Shard, token: number): number[][] {
  const { topk, instances, entryInstance, entrySlot } = shard;
  const { spec } = plan;
  const groups = new Map<number, number[]>();
  for (let entry = token * topk; entry < (token + 1) * topk; entry++) {
    const instance = entryInstance[entry]!;
    if (instance === instances || entrySlot[entry] === SLOT_DROPPED) continue;
    const node = sumsByNode(spec) ? nodeOf(spec, spec.placement.instanceRank[instance]!) : 0;
    groups.set(node, [...(groups.get(node) ?? []), entry]);
  }
  return [...groups].sort(([a], [b]) => a - b).map(([, entries]) => entries);
}

/**
 * With identity experts, a combined row is the row of its token times the sum of the token's weights, added in the order
 * of k, or node by node if the plan requires it. Compares every element's bits.
 *
 * @param input per rank [tokens, rowBytes]
 * @param combined per rank [tokens, rowBytes]; ranks that are missing are not compared
 * @param weights per rank [tokens, topk]; undefined for the unweighted sum
 */
export function findCombineMismatch(
  plan: Plan,
  input: readonly Uint8Array[],
  combined: readonly Uint8Array[],
  dtype: FloatDtype,
  rowBytes: number,
  weights: readonly Float32Array[] | undefined,
): Mismatch | undefined {
  const codec = rowCodec(dtype, rowBytes);
  const row = new Float32Array(codec.elements);
  const sum = new Float32Array(codec.elements);
  const partial = new Float32Array(codec.elements);
  const expected = Buffer.alloc(rowBytes);
  const rounded = sumsByNode(plan.spec) && plan.spec.partial === 'payload';
  for (const shard of plan.shards) {
    const { rank, tokens } = shard;
    if (combined[rank] === undefined) continue;
    for (let token = 0; token < tokens; token++) {
      codec.load(input[rank]!, token, row);
      sum.fill(0);
      for (const entries of termsOf(plan, shard, token)) {
        partial.fill(0);
        for (const entry of entries) {
          const weight = weights?.[rank]?.[entry] ?? 1;
          for (let i = 0; i < sum.length; i++) partial[i]! += Math.fround(weight * row[i]!);
        }
        if (rounded) {
          codec.store(partial, expected, 0);
          codec.load(expected, 0, partial);
        }
        // The one group of a sum by token starts from +0 as the sum does, so adding it changes nothing.
        for (let i = 0; i < sum.length; i++) sum[i]! += partial[i]!;
      }
      codec.store(sum, expected, 0);
      const at = token * rowBytes;
      if (expected.compare(combined[rank]!, at, at + rowBytes) !== 0)
        return { what: 'combined', rank, row: token };
    }
  }
  return undefined;
}
