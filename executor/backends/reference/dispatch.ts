import type { Shard } from '../../../planner/format/shard.ts';
import type { Plan } from '../../../planner/plan.ts';
import { ORIGIN_BYTES } from '../../callChecks.ts';
import { dataView, rowCodec } from '../../numeric.ts';
import type { DispatchCall, Memory, Payload } from '../types.ts';
import { bytesOf, type Copy, copiesOf, directCopies, forwardedCopies } from './rows.ts';

/** Moves one row: its bytes, or its elements scaled by the weight of its entry. */
type Move = (from: Uint8Array, fromRow: number, copy: Copy) => void;

/** Moves rows to their slots; without `weights` it copies bytes. */
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
 * A forwarded row is sent unscaled. It is stored in a slot or a landing row of the forwarder and copied from there to its
 * other slots; each of these copies is scaled, the landing slot last.
 */
function forward(
  plan: Plan,
  shard: Shard,
  payload: Payload,
  landingRows: readonly Uint8Array[],
  move: Move,
): void {
  const { rowBytes, from, to } = payload;
  const source = bytesOf(from[shard.rank]!);
  for (const { token, forwarder, target, copies } of forwardedCopies(plan, shard)) {
    const landing = target >= 0 ? bytesOf(to[forwarder]!) : landingRows[forwarder]!;
    const row = target >= 0 ? target : ~target;
    landing.set(source.subarray(token * rowBytes, (token + 1) * rowBytes), row * rowBytes);
    const isLanding = (copy: Copy) => copy.rank === forwarder && copy.slot === target;
    for (const copy of copies) if (!isLanding(copy)) move(landing, row, copy);
    for (const copy of copies) if (isLanding(copy)) move(landing, row, copy);
  }
}

function dispatchTokens(plan: Plan, payload: Payload, scale: readonly Memory[] | undefined): void {
  const landingRows = plan.shards.map((shard) => new Uint8Array(shard.stageRows * payload.rowBytes));
  for (const shard of plan.shards) {
    const move = makeMove(payload, scale === undefined ? undefined : dataView(bytesOf(scale[shard.rank]!)));
    const source = bytesOf(payload.from[shard.rank]!);
    for (const copy of directCopies(plan, shard)) move(source, copy.token, copy);
    forward(plan, shard, payload, landingRows, move);
  }
}

/** Values of an entry go straight to the slot of its row. No two slots share them, so none is forwarded. */
function dispatchEntries(plan: Plan, payload: Payload): void {
  const move = makeMove(payload, undefined);
  for (const shard of plan.shards) {
    const source = bytesOf(payload.from[shard.rank]!);
    for (const copy of copiesOf(plan, shard)) move(source, copy.entry, copy);
  }
}

function writeOrigins(plan: Plan, origins: readonly Memory[]): void {
  for (const shard of plan.shards) bytesOf(origins[shard.rank]!).fill(0xff, 0, ORIGIN_BYTES * shard.recvRows);
  for (const shard of plan.shards) {
    for (const { source, token, k, rank, slot } of copiesOf(plan, shard)) {
      const view = dataView(bytesOf(origins[rank]!));
      for (const [i, word] of [source, token, k].entries())
        view.setInt32(ORIGIN_BYTES * slot + 4 * i, word, true);
    }
  }
}

/** Zeroes the receive buffers, so that padding is zero, and moves every payload. */
export function dispatch(plan: Plan, call: DispatchCall): void {
  for (const payload of call.payloads) {
    for (const { rank, recvRows } of plan.shards)
      bytesOf(payload.to[rank]!).fill(0, 0, recvRows * payload.rowBytes);
    if (payload.per === 'entry') dispatchEntries(plan, payload);
    else dispatchTokens(plan, payload, call.scale);
  }
  if (call.origins !== undefined) writeOrigins(plan, call.origins);
}
