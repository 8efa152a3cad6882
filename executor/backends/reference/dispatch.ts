import type { Shard } from '../../../planner/format/shard.ts';
import type { Plan } from '../../../planner/plan.ts';
import { rowCodec } from '../../numeric.ts';
import type { DispatchCall, Memory, Payload } from '../types.ts';
import { bytesOf, type Copy, copiesOf, dataView, directCopies, forwardedCopies } from './rows.ts';

/** Moves one row: bytes as they are, or scaled by the weight of its entry. */
type Move = (from: Uint8Array, fromRow: number, copy: Copy) => void;

/** Moves to final slots; `weights` undefined copies bytes. */
function makeMove({ rowBytes, dtype, to }: Payload, weights: DataView | undefined): Move {
  if (weights === undefined) {
    return (from, fromRow, { rank, slot }) => {
      const row = from.subarray(fromRow * rowBytes, (fromRow + 1) * rowBytes);
      bytesOf(to[rank]!).set(row, slot * rowBytes);
    };
  }
  const codec = rowCodec(dtype ?? 'bytes', rowBytes);
  const values = new Float32Array(codec.elements);
  return (from, fromRow, { rank, slot, entry }) => {
    const weight = weights.getFloat32(4 * entry, true);
    codec.load(from, fromRow, values);
    for (let i = 0; i < values.length; i++) values[i]! *= weight;
    codec.store(values, bytesOf(to[rank]!), slot);
  };
}

/**
 * A row that is forwarded travels as it is: it lands in a slot or a staging row of the forwarder and is copied from
 * there, scaled at each last hop, the landing slot last.
 */
function forward(
  plan: Plan,
  shard: Shard,
  payload: Payload,
  staging: readonly Uint8Array[],
  move: Move,
): void {
  const { rowBytes, from, to } = payload;
  const source = bytesOf(from[shard.rank]!);
  for (const { token, forwarder, target, copies } of forwardedCopies(plan, shard)) {
    const landing = target >= 0 ? bytesOf(to[forwarder]!) : staging[forwarder]!;
    const row = target >= 0 ? target : ~target;
    landing.set(source.subarray(token * rowBytes, (token + 1) * rowBytes), row * rowBytes);
    const isLanding = (copy: Copy) => copy.rank === forwarder && copy.slot === target;
    for (const copy of copies) if (!isLanding(copy)) move(landing, row, copy);
    for (const copy of copies) if (isLanding(copy)) move(landing, row, copy);
  }
}

function dispatchTokens(plan: Plan, payload: Payload, scale: readonly Memory[] | undefined): void {
  const staging = plan.shards.map((shard) => new Uint8Array(shard.stageRows * payload.rowBytes));
  for (const shard of plan.shards) {
    const move = makeMove(payload, scale === undefined ? undefined : dataView(scale[shard.rank]!));
    const source = bytesOf(payload.from[shard.rank]!);
    for (const copy of directCopies(plan, shard)) move(source, copy.token, copy);
    forward(plan, shard, payload, staging, move);
  }
}

/** Values that belong to an entry travel with its row and are never shared, so they need no staging. */
function dispatchEntries(plan: Plan, payload: Payload): void {
  const move = makeMove(payload, undefined);
  for (const shard of plan.shards) {
    const source = bytesOf(payload.from[shard.rank]!);
    for (const copy of copiesOf(plan, shard)) move(source, copy.entry, copy);
  }
}

function writeOrigins(plan: Plan, origins: readonly Memory[]): void {
  for (const shard of plan.shards) bytesOf(origins[shard.rank]!).fill(0xff, 0, 12 * shard.recvRows);
  for (const shard of plan.shards) {
    for (const { source, token, k, rank, slot } of copiesOf(plan, shard)) {
      const view = dataView(origins[rank]!);
      view.setInt32(12 * slot, source, true);
      view.setInt32(12 * slot + 4, token, true);
      view.setInt32(12 * slot + 8, k, true);
    }
  }
}

/** Zeroes the receive buffers, padding being what nothing is written to, and moves every payload. */
export function dispatch(plan: Plan, call: DispatchCall): void {
  for (const payload of call.payloads) {
    for (const { rank, recvRows } of plan.shards)
      bytesOf(payload.to[rank]!).fill(0, 0, recvRows * payload.rowBytes);
    if (payload.per === 'entry') dispatchEntries(plan, payload);
    else dispatchTokens(plan, payload, call.scale);
  }
  if (call.origins !== undefined) writeOrigins(plan, call.origins);
}
