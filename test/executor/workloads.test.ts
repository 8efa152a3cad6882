// Whole exchanges of every workload family against the obvious plan: rows are placed by its fates, sums are added
// here, one float32 operation after the other.

import { describe, expect, it } from 'vitest';
import { encode, f32, planOf, poisoned, prepare } from '../support/buffers.ts';
import { obviousPlan } from '../support/obviousPlan.ts';
import { FAMILIES, makeRouting, randomFrom } from '../support/workloads.ts';

const RANKS = 4;
const TOPK = 3;
const OPTIONS = { experts: 12, align: 4, capacity: 14 };
const ELEMENTS = 5;

describe.each(FAMILIES)('%s', (family) => {
  it.each(['f32', 'f16', 'bf16'] as const)('dispatch and weighted combine of %s rows', async (dtype) => {
    const workload = {
      family,
      seed: 5,
      step: 1,
      ranks: RANKS,
      tokens: 20,
      topk: TOPK,
      experts: 12,
      masked: 0.1,
    };
    const routing = makeRouting(workload);
    const obvious = obviousPlan(routing, { ...OPTIONS, ranks: RANKS });
    const plan = await planOf(routing, TOPK, OPTIONS);
    const random = randomFrom(11);
    const integer = (size: number) => Math.floor(random() * size) - size / 2;
    const x = routing.map((tokens) => tokens.map(() => Array.from({ length: ELEMENTS }, () => integer(16))));
    const w = routing.map((tokens) => tokens.map((ids) => ids.map(() => integer(8) / 2)));
    const rowBytes = ELEMENTS * (dtype === 'f32' ? 4 : 2);

    // What must arrive, and what must come home from experts that double their input.
    const recvRows = obvious.map((rank) => rank.expertOffsets.at(-1)!);
    const received = recvRows.map((rows) =>
      Array.from({ length: rows }, () => new Array<number>(ELEMENTS).fill(0)),
    );
    const home = x.map((tokens) => tokens.map(() => new Array<number>(ELEMENTS).fill(0)));
    for (const [source, { fates }] of obvious.entries()) {
      fates.forEach((ids, token) => {
        ids.forEach((fate, k) => {
          if (fate.kind !== 'kept') return;
          received[fate.rank]![fate.row] = x[source]![token]!;
          for (let i = 0; i < ELEMENTS; i++) {
            const product = Math.fround(w[source]![token]![k]! * 2 * x[source]![token]![i]!);
            home[source]![token]![i] = Math.fround(home[source]![token]![i]! + product);
          }
        });
      });
    }

    const exchange = await prepare(plan);
    expect(exchange.recvRows).toEqual(recvRows);
    const to = poisoned(recvRows.map((rows) => rows * rowBytes));
    const from = x.map((rows) => encode(dtype, rows.flat()));
    await exchange.dispatch({ payloads: [{ rowBytes, from, to }] });
    expect(to).toEqual(received.map((rows) => encode(dtype, rows.flat())));

    const doubled = received.map((rows) =>
      encode(
        dtype,
        rows.flat().map((value) => 2 * value),
      ),
    );
    const out = poisoned(routing.map((tokens) => tokens.length * rowBytes));
    const weights = w.map((tokens) => f32(...tokens.flat(2)));
    await exchange.combine({ dtype, rowBytes, from: doubled, to: out, weights });
    // A sum that cancels is +0.
    expect(out).toEqual(
      home.map((rows) =>
        encode(
          dtype,
          rows.flat().map((value) => value + 0),
        ),
      ),
    );
    expect(out.some((bytes) => bytes.some((byte) => byte !== 0))).toBe(true);
  });
});
