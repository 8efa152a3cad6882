// Buffers whose memory is gone, in every place of every call, on the reference and on the host backend: E_BUFFER, and
// no other buffer is touched.

import { describe, expect, it } from 'vitest';
import type {
  BackendName,
  CombineCall,
  CombineGradientCall,
  DispatchCall,
  WeightGradientCall,
} from '../../executor/backends/types.ts';
import { createGroup, type Exchange } from '../../executor/group.ts';
import { findAddon } from '../../executor/native/addon.ts';
import { POISON, planOf, poisoned } from '../support/buffers.ts';

const ROW_BYTES = 8;
const TOKENS = [2, 1];
const ENTRIES = [4, 2];

type ResizableArrayBuffer = ArrayBuffer & { resize(bytes: number): void };
const Resizable = ArrayBuffer as unknown as new (
  bytes: number,
  options: { maxByteLength: number },
) => ResizableArrayBuffer;

/** Views whose memory has gone, each `bytes` long before. */
const GONE: Record<string, (bytes: number) => Uint8Array> = {
  'transferred to a clone': (bytes) => {
    const view = new Uint8Array(bytes);
    structuredClone(view, { transfer: [view.buffer] });
    return view;
  },
  'sent to another thread': (bytes) => {
    const view = new Uint8Array(bytes);
    const { port1, port2 } = new MessageChannel();
    port1.postMessage(view, [view.buffer]);
    port1.close();
    port2.close();
    return view;
  },
  'of a Wasm memory that grew': (bytes) => {
    const wasm = new WebAssembly.Memory({ initial: 1, maximum: 2 });
    const view = new Uint8Array(wasm.buffer, 64, bytes);
    wasm.grow(1);
    return view;
  },
  'of a buffer that shrank': (bytes) => {
    const buffer = new Resizable(bytes, { maxByteLength: bytes });
    const view = new Uint8Array(buffer, 0, bytes);
    buffer.resize(1);
    return view;
  },
};

interface Calls {
  dispatch: DispatchCall;
  combine: CombineCall;
  weightGradient: WeightGradientCall;
  combineGradient: CombineGradientCall;
}

/** Sound calls into poisoned buffers, and where each list of buffers of each call is. */
function calls(recvRows: readonly number[]) {
  const rows = (counts: readonly number[], bytes = ROW_BYTES) => poisoned(counts.map((n) => n * bytes));
  const payload = { rowBytes: ROW_BYTES, dtype: 'f32' as const, from: rows(TOKENS), to: rows(recvRows) };
  const dispatch = { payloads: [payload], origins: rows(recvRows, 12), scale: rows(ENTRIES, 4) };
  const way = { dtype: 'f32' as const, rowBytes: ROW_BYTES };
  const combine = { ...way, from: rows(recvRows), to: rows(TOKENS), weights: rows(ENTRIES, 4) };
  const weightGradient = {
    ...way,
    from: rows(recvRows),
    outputGradient: rows(TOKENS),
    to: rows(ENTRIES, 4),
  };
  const combineGradient = {
    ...way,
    ...{ outputGradient: rows(TOKENS), from: rows(recvRows), weights: rows(ENTRIES, 4), to: rows(recvRows) },
    ...{ weightsGradient: rows(ENTRIES, 4), origins: rows(recvRows, 12) },
  };
  const made: Calls = { dispatch, combine, weightGradient, combineGradient };
  const { from, to } = payload;
  const { origins, scale } = dispatch;
  const lists: [keyof Calls, string, Uint8Array[]][] = [
    ...Object.entries({ from, to, origins, scale }).map(([name, list]) => ['dispatch', name, list] as const),
    ...(['from', 'to', 'weights'] as const).map((name) => ['combine', name, combine[name]] as const),
    ...(['from', 'to', 'outputGradient'] as const).map(
      (name) => ['weightGradient', name, weightGradient[name]] as const,
    ),
    ...(['outputGradient', 'from', 'weights', 'to', 'weightsGradient', 'origins'] as const).map(
      (name) => ['combineGradient', name, combineGradient[name]] as const,
    ),
  ].map(([call, name, list]) => [call, name, list]);
  return { made, lists };
}

const PLACES = calls([0, 0]).lists.map(([call, name]): [keyof Calls, string] => [call, name]);
const BACKENDS: readonly BackendName[] =
  findAddon().addon === undefined ? ['reference'] : ['reference', 'host'];

async function openOn(backend: BackendName): Promise<Exchange> {
  const plan = await planOf(
    [
      [
        [0, 3],
        [1, 2],
      ],
      [[2, 0]],
    ],
    2,
    { experts: 4 },
  );
  const group = await createGroup({ ranks: 2, backend });
  return group.prepare(plan);
}

describe.each(BACKENDS)('%s', (backend) => {
  describe.each(Object.keys(GONE))('a buffer %s', (how) => {
    it.each(PLACES)('in %s: %s', async (call, name) => {
      const exchange = await openOn(backend);
      const { made, lists } = calls(exchange.recvRows);
      const list = lists.find(([a, b]) => a === call && b === name)![2];
      const gone = GONE[how]!(list[1]!.length);
      list[1] = gone;
      const run = exchange[call] as (given: Calls[typeof call]) => Promise<unknown>;
      await expect(run.call(exchange, made[call])).rejects.toMatchObject({
        name: 'FuscoError',
        code: 'E_BUFFER',
        details: { rank: 1 },
      });
      for (const [, , buffers] of lists) {
        for (const bytes of buffers) {
          if (bytes !== gone) expect(bytes.every((byte) => byte === POISON)).toBe(true);
        }
      }
      // The same call with sound buffers works: it is the buffer that was refused.
      await run.call(exchange, calls(exchange.recvRows).made[call]);
      exchange.close();
    });
  });
});
