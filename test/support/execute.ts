// Executes a plan naively: every slice of every rank, row by row, and says which row landed where. Forwarded rows pass
// their forwarder's staging row or slot, and only what lies there is distributed.

import type { Plan } from '../../planner/plan.ts';

/** Source of each row of each receive buffer, `rank/token/k`; undefined where nothing was written. */
export type Received = (string | undefined)[][];

/** Moves each row by the plan's descriptors alone. Throws where a row is written twice or leaves its buffer. */
export function executeNaively(plan: Plan): Received {
  const received: Received = plan.shards.map((shard) => new Array(shard.recvRows).fill(undefined));
  const write = (rank: number, row: number, source: string) => {
    const buffer = received[rank]!;
    if (row >= buffer.length) throw new Error(`row ${row} of ${buffer.length}`);
    if (buffer[row] !== undefined) throw new Error(`rank ${rank} row ${row} twice`);
    buffer[row] = source;
  };
  for (const [rank, shard] of plan.shards.entries()) {
    sendDirectly(plan, rank, (peer, row, entry) => {
      write(peer, row, `${rank}/${Math.floor(entry / shard.topk)}/${entry % shard.topk}`);
    });
  }
  if (plan.spec.strategy === 'hier') forward(plan, write);
  return received;
}

/** Every slice of a rank's direct stream, row by row: by the slices, the streams and the send tables. */
function sendDirectly(
  plan: Plan,
  rank: number,
  send: (peer: number, row: number, entry: number) => void,
): void {
  const { placement, ranksPerNode, strategy } = plan.spec;
  const { slices, sendEntry, sendRow, sendRows } = plan.shards[rank]!;
  const nodeOf = (host: number) => Math.floor(host / ranksPerNode);
  // Where each row of the stream goes: instance after instance, row after row.
  const targets: { peer: number; row: number }[] = [];
  for (let instance = 0; instance < placement.instances; instance++) {
    const peer = placement.instanceRank[instance]!;
    if (strategy === 'hier' && nodeOf(peer) !== nodeOf(rank)) continue;
    for (let i = 0; i < sendRows[instance]!; i++) targets.push({ peer, row: sendRow[instance]! + i });
  }
  for (let s = 0; s < slices.length; s += 3) {
    const [peer, first, rows] = slices.subarray(s, s + 3) as unknown as [number, number, number];
    for (let at = first; at < first + rows; at++) {
      const target = targets[at]!;
      if (target.peer !== peer) throw new Error(`slice for rank ${peer} holds a row for ${target.peer}`);
      send(peer, target.row, sendEntry[at]!);
    }
  }
}

/** Brings the rows of every forwarding slice to their forwarders, then distributes what lies there. */
function forward(plan: Plan, write: (rank: number, row: number, source: string) => void): void {
  const { ranksPerNode, placement } = plan.spec;
  const { groups } = plan.decision;
  // What lies at each forwarder: `slot 3` or `stage 3` -> rank/token.
  const lying = plan.shards.map(() => new Map<string, string>());
  const nameOf = (target: number) => (target >= 0 ? `slot ${target}` : `stage ${-1 - target}`);
  const arrivals: { forwarder: number; source: number; row: number }[] = [];
  for (const [source, { forwardSlices, forwardToken, forwardTarget }] of plan.shards.entries()) {
    for (let s = 0; s < forwardSlices.length; s += 3) {
      const [node, first, rows] = forwardSlices.subarray(s, s + 3) as unknown as [number, number, number];
      const members = [...groups].slice(node * ranksPerNode, (node + 1) * ranksPerNode);
      const forwarder = node * ranksPerNode + members.indexOf(groups[source]!);
      const { stageRow, stageRowsFrom, stageRows } = plan.shards[forwarder]!;
      for (let row = first; row < first + rows; row++) {
        const target = forwardTarget[row]!;
        const staged = -1 - target - stageRow[source]!;
        const inside = staged >= 0 && staged < stageRowsFrom[source]! && -1 - target < stageRows;
        if (target < 0 && !inside) throw new Error(`staging row ${-1 - target} is not rank ${source}'s`);
        if (lying[forwarder]!.has(nameOf(target)))
          throw new Error(`rank ${forwarder} ${nameOf(target)} twice`);
        lying[forwarder]!.set(nameOf(target), `${source}/${forwardToken[row]}`);
        arrivals.push({ forwarder, source, row });
      }
    }
  }
  for (const { forwarder, source, row } of arrivals) {
    const { forwardTarget, distributeOffset, distributeEntry, ...shard } = viewsOf(plan, source);
    const found = lying[forwarder]!.get(nameOf(forwardTarget[row]!))!;
    let landed = forwardTarget[row]! < 0;
    for (let at = distributeOffset[row]!; at < distributeOffset[row + 1]!; at++) {
      const entry = distributeEntry[at]!;
      const host = placement.instanceRank[shard.entryInstance[entry]!]!;
      if (Math.floor(host / ranksPerNode) !== Math.floor(forwarder / ranksPerNode)) {
        throw new Error(`rank ${forwarder} would distribute to another node`);
      }
      landed ||= host === forwarder && shard.entrySlot[entry] === forwardTarget[row];
      write(host, shard.entrySlot[entry]!, `${found}/${entry - shard.topk * Number(found.split('/')[1])}`);
    }
    if (!landed) throw new Error(`rank ${source} row ${row} landed where it does not belong`);
  }
}

function viewsOf({ shards }: Plan, rank: number) {
  const { forwardTarget, distributeOffset, distributeEntry, entryInstance, entrySlot, topk } = shards[rank]!;
  return { forwardTarget, distributeOffset, distributeEntry, entryInstance, entrySlot, topk };
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
