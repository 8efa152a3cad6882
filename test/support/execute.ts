// Executes a plan naively: every slice of every rank, row by row, and says which row landed where.

import type { Plan } from '../../planner/plan.ts';

/** Source of each row of each receive buffer, `rank/token/k`; undefined where nothing was written. */
export type Received = (string | undefined)[][];

/** Moves each row by the slices, the streams and the send tables. Throws where a row is written twice. */
export function executeNaively(plan: Plan): Received {
  const { placement } = plan.spec;
  const received: Received = plan.shards.map((shard) => new Array(shard.recvRows).fill(undefined));
  for (const [rank, shard] of plan.shards.entries()) {
    const { slices, sendEntry, sendRow, sendRows, topk } = shard;
    // Where each row of the stream goes: instance after instance, row after row.
    const targets: { peer: number; row: number }[] = [];
    for (let instance = 0; instance < placement.instances; instance++) {
      for (let i = 0; i < sendRows[instance]!; i++) {
        targets.push({ peer: placement.instanceRank[instance]!, row: sendRow[instance]! + i });
      }
    }
    for (let s = 0; s < slices.length; s += 3) {
      const [peer, first, rows] = slices.subarray(s, s + 3) as unknown as [number, number, number];
      for (let at = first; at < first + rows; at++) {
        const target = targets[at]!;
        if (target.peer !== peer) throw new Error(`slice for rank ${peer} holds a row for ${target.peer}`);
        const buffer = received[peer]!;
        if (target.row >= buffer.length) throw new Error(`row ${target.row} of ${buffer.length}`);
        if (buffer[target.row] !== undefined) throw new Error(`rank ${peer} row ${target.row} twice`);
        const entry = sendEntry[at]!;
        buffer[target.row] = `${rank}/${Math.floor(entry / topk)}/${entry % topk}`;
      }
    }
  }
  return received;
}

/** What is wrong with an execution: a real row that was not written, a padding row that was. */
export function coverageDefects(plan: Plan, received: Received): string[] {
  const defects: string[] = [];
  for (const [rank, shard] of plan.shards.entries()) {
    const real = new Set<number>();
    shard.expertRows.forEach((rows, local) => {
      for (let i = 0; i < rows; i++) real.add(shard.expertOffset[local]! + i);
    });
    received[rank]!.forEach((source, row) => {
      if ((source !== undefined) !== real.has(row)) {
        defects.push(`rank ${rank} row ${row}: ${source ?? 'not written'}`);
      }
    });
    if (real.size > 0 && Math.max(...real) >= shard.recvRows)
      defects.push(`rank ${rank}: block past the end`);
  }
  return defects;
}
