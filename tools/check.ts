// Checks of an execution that use neither the slots that the executor read nor its code: received rows are traced
// through the receiver's run tables and the senders' streams, and combined rows are computed from the input alone.

import { type FloatDtype, rowCodec } from '../executor/numeric.ts';
import { SLOT_DROPPED } from '../planner/layout.ts';
import type { Plan } from '../planner/plan.ts';

/** The first byte or row that is not what it must be. */
export interface Mismatch {
  readonly what: 'received' | 'combined';
  readonly rank: number;
  readonly row: number;
}

/** First stream position of every instance of a sender. */
function streamStarts(sendRows: Uint32Array): Uint32Array {
  const starts = new Uint32Array(sendRows.length);
  for (let i = 1; i < starts.length; i++) starts[i] = starts[i - 1]! + sendRows[i - 1]!;
  return starts;
}

/**
 * Compares every byte of the receive buffers, padding included, with the input rows.
 *
 * @param input per rank [tokens, rowBytes]
 * @param received per rank [recvRows, rowBytes]
 */
export function findReceiveMismatch(
  plan: Plan,
  input: readonly Uint8Array[],
  received: readonly Uint8Array[],
  rowBytes: number,
): Mismatch | undefined {
  const { ranks, topk } = plan.spec;
  const starts = plan.shards.map((shard) => streamStarts(shard.sendRows));
  const zeros = Buffer.alloc(rowBytes);
  for (const shard of plan.shards) {
    const { rank, runRow, runRows, expertOffset } = shard;
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
        const sender = plan.shards[source]!;
        const at = starts[source]![shard.firstInstance + j]!;
        const run = j * ranks + source;
        row = runRow[run]!;
        for (let i = 0; i < runRows[run]!; i++, row++) {
          const token = Math.floor(sender.sendEntry[at + i]! / topk);
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

/**
 * With identity experts, a combined row is its own token's row times the sum of its weights, added in the order of k.
 * Compares every element's bits.
 *
 * @param input per rank [tokens, rowBytes]
 * @param combined per rank [tokens, rowBytes]
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
  const expected = Buffer.alloc(rowBytes);
  for (const { rank, tokens, topk, entrySlot, entryInstance, instances } of plan.shards) {
    for (let token = 0; token < tokens; token++) {
      codec.load(input[rank]!, token, row);
      sum.fill(0);
      for (let k = 0; k < topk; k++) {
        const entry = token * topk + k;
        if (entryInstance[entry] === instances || entrySlot[entry] === SLOT_DROPPED) continue;
        const weight = weights?.[rank]?.[entry] ?? 1;
        for (let i = 0; i < sum.length; i++) sum[i]! += Math.fround(weight * row[i]!);
      }
      codec.store(sum, expected, 0);
      const at = token * rowBytes;
      if (expected.compare(combined[rank]!, at, at + rowBytes) !== 0)
        return { what: 'combined', rank, row: token };
    }
  }
  return undefined;
}
