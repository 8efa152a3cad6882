// The inputs of the GPU cases at the limits: that they are what they say, and that host and reference agree on them. No GPU
// is needed.

import { describe, expect, it } from 'vitest';
import { createGroup } from '../../executor/group.ts';
import { describeNative } from '../support/addon.ts';
import { assertSameOutputs, runExchanges } from './exchanges.ts';
import { type Extreme, extremes, planOfExtreme } from './extremes.ts';

const RANKS = [1, 2, 4, 8];

function extremeOf(ranks: number, name: string): Extreme {
  return extremes(ranks, 1).find((extreme) => extreme.name.startsWith(`${name}: flat`))!;
}

const recvRowsOf = async (extreme: Extreme) =>
  (await planOfExtreme(extreme)).plan.shards.map(({ recvRows }) => recvRows);

describe('extremes', () => {
  it.each(RANKS)('of %i ranks have the rows that their names say', async (ranks) => {
    const one = await planOfExtreme(extremeOf(ranks, 'one token to all ranks'));
    expect(one.plan.shards.map(({ tokens }) => tokens)).toEqual([1, ...new Array(ranks - 1).fill(0)]);
    expect(one.plan.shards.map(({ recvRows }) => recvRows)).toEqual(new Array(ranks).fill(1));
    const all = await recvRowsOf(extremeOf(ranks, 'all tokens to one rank'));
    expect(all).toEqual([...new Array(ranks - 1).fill(0), 2 * 33 * ranks]);
    for (const bytes of [2, 65_536]) {
      const { plan, input } = await planOfExtreme(
        extremeOf(ranks, `rows of ${bytes.toLocaleString('en-US')} bytes`),
      );
      expect(plan.spec.rowBytes).toBe(bytes);
      expect(input.rows[0]!.length).toBe(bytes * plan.shards[0]!.tokens);
      expect(plan.shards[0]!.tokens).toBeGreaterThan(0);
    }
  });

  it.each([2, 4, 8])('of %i ranks send rows to several replicas of an expert', async (ranks) => {
    for (const rule of ['replicas by quota', 'replicas by source']) {
      const { plan } = await planOfExtreme(extremeOf(ranks, rule));
      const { placement } = plan.spec;
      const rows = plan.shards.flatMap(({ expertRows }) => [...expertRows]);
      const used = new Map<number, number>();
      for (const [instance, count] of rows.entries()) {
        const expert = placement.instanceExpert[instance]!;
        if (count > 0) used.set(expert, (used.get(expert) ?? 0) + 1);
      }
      expect(Math.max(...used.values()), rule).toBeGreaterThan(1);
    }
  });
});

describeNative('extremes on the host backend', () => {
  it.each([1, 4])('of %i ranks have the bits of the reference', async (ranks) => {
    for (const extreme of extremes(ranks, Math.min(2, ranks))) {
      const { plan, input } = await planOfExtreme(extreme);
      using host = await createGroup({ ranks, backend: 'host' });
      using reference = await createGroup({ ranks, backend: 'reference' });
      const [actual, expected] = [
        await runExchanges(host, plan, input),
        await runExchanges(reference, plan, input),
      ];
      assertSameOutputs(actual, expected, input);
    }
  });
});
