// inspect, export and verify: what they print and write, against numbers from the obvious plan.

import { describe, expect, it } from 'vitest';
import {
  fusco,
  fuscoJson,
  loadInts,
  saveRouting,
  saveRoutingByRank,
  snapshot,
  useTemporaryDirectory,
} from '../../support/cli.ts';
import type { ObviousRank } from '../../support/obviousPlan.ts';
import { makeRouting } from '../../support/workloads.ts';
import { expectedPlan, planEverything, RAGGED, ROW_BYTES } from './support.ts';

useTemporaryDirectory();

/** Bytes by (sender, receiver), within nodes of two ranks or between them. */
function trafficOf(plan: readonly ObviousRank[], inside: boolean): number[][] {
  return plan.map(({ stream }, from) =>
    plan.map((_, to) => {
      const sameNode = Math.floor(from / 2) === Math.floor(to / 2);
      return sameNode === inside ? stream.filter(({ rank }) => rank === to).length * ROW_BYTES : 0;
    }),
  );
}

const maxOverMean = (values: readonly number[]) =>
  Math.max(...values) / (values.reduce((sum, value) => sum + value, 0) / values.length);

describe('fusco inspect', () => {
  it('gives every figure of the plan as JSON', async () => {
    const { planId } = await planEverything();
    const plan = expectedPlan(RAGGED);
    const kept = plan.map(({ stream }) => stream.length);
    const tokens = RAGGED.map((rows) => rows.length);
    const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);
    const counts = plan.map(({ expertCounts }) => expertCounts);
    // The case is worth its name only if something is masked, dropped and padded.
    expect(total(plan.map(({ masked }) => masked))).toBeGreaterThan(0);
    expect(total(plan.map(({ dropped }) => dropped))).toBeGreaterThan(0);
    expect(await fuscoJson('inspect', 'p.fusco')).toMatchObject({
      planId,
      verified: true,
      problems: [],
      ranks: 4,
      ranksPerNode: 2,
      experts: 8,
      topk: 3,
      rowBytes: ROW_BYTES,
      strategy: 'flat',
      tokens,
      recvRows: plan.map(({ expertOffsets }) => expertOffsets.at(-1)),
      expertCounts: counts,
      keptRows: kept,
      maskedEntries: total(plan.map(({ masked }) => masked)),
      droppedEntries: total(plan.map(({ dropped }) => dropped)),
      paddingRows: total(plan.map(({ expertOffsets }) => expertOffsets.at(-1)!)) - total(kept),
      segments: total(plan.map(({ segments }) => segments)),
      traffic: { intraNodeBytes: trafficOf(plan, true), interNodeBytes: trafficOf(plan, false) },
      imbalance: {
        expertMaxOverMean: expect.closeTo(maxOverMean(counts.flat()), 12),
        rankMaxOverMean: expect.closeTo(maxOverMean(counts.map(total)), 12),
      },
      // All three experts of rank 3 reach the capacity.
      busiest: { rank: 3, rows: 54, experts: [0, 1, 7].map((expert) => ({ expert, rows: 18 })) },
      copiesPerToken: {
        flat: expect.closeTo(total(kept) / total(tokens), 12),
        sent: expect.closeTo(total(kept) / total(tokens), 12),
      },
    });
  });

  it.each([4, 24])('fits one screen with %i ranks', async (ranks) => {
    saveRouting(
      'r.npy',
      makeRouting({ family: 'hotRank', seed: 1, ranks, tokens: 40, topk: 4, experts: 48 }),
    );
    await fuscoJson('plan', 'r.npy', '-o', 'p.fusco', '--experts', '48');
    const { code, stdout, stderr } = await fusco('inspect', 'p.fusco');
    expect([code, stderr]).toEqual([0, '']);
    const lines = stdout.trimEnd().split('\n');
    expect(lines.length).toBeLessThanOrEqual(33);
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(100);
    expect(stdout).toContain(`${ranks} ranks`);
    expect(stdout).toContain('verified');
  });

  it('shows a plan of nothing', async () => {
    saveRoutingByRank('routing', [[], []], 2);
    await fuscoJson('plan', 'routing', '-o', 'p.fusco', '--experts', '2');
    expect(await fuscoJson('inspect', 'p.fusco')).toMatchObject({
      tokens: [0, 0],
      recvRows: [0, 0],
      imbalance: { expertMaxOverMean: 0, rankMaxOverMean: 0 },
      copiesPerToken: { flat: 0, sent: 0 },
    });
    const { code, stdout } = await fusco('inspect', 'p.fusco');
    expect(code).toBe(0);
    expect(stdout).not.toMatch(/NaN|Infinity|undefined/);
  });
});

describe('fusco export', () => {
  it('writes the destination of every entry, and counts and offsets of every expert', async () => {
    await planEverything();
    const { code, stdout, stderr } = await fusco('export', 'p.fusco', '--out', 'a/b');
    expect([code, stdout, stderr]).toEqual([0, '', '16 arrays -> a/b\n']);
    const plan = expectedPlan(RAGGED);
    plan.forEach(({ fates, expertCounts, expertOffsets }, rank) => {
      const shape = [fates.length, 3];
      expect(loadInts(`a/b/rank${rank}.dst_rank.npy`, shape)).toEqual(
        fates.flat().map((fate) => (fate.kind === 'masked' ? -1 : fate.rank)),
      );
      expect(loadInts(`a/b/rank${rank}.dst_row.npy`, shape)).toEqual(
        fates.flat().map((fate) => (fate.kind === 'masked' ? -1 : fate.kind === 'dropped' ? -2 : fate.row)),
      );
      expect(loadInts(`a/b/rank${rank}.expert_counts.npy`, [expertCounts.length])).toEqual(expertCounts);
      expect(loadInts(`a/b/rank${rank}.expert_offsets.npy`, [expertOffsets.length])).toEqual(expertOffsets);
    });
    expect(Object.keys(snapshot()).filter((name) => name.startsWith('a/'))).toHaveLength(16);
  });
});

describe('fusco verify --routing', () => {
  it('accepts the routing of the plan, and no other', async () => {
    const { planId } = await planEverything();
    const right = await fusco('verify', 'p.fusco', '--routing', 'routing');
    expect(right).toEqual({
      code: 0,
      stdout: `verified ${planId}\nit is the plan of routing\n`,
      stderr: '',
    });
    expect((await fuscoJson('verify', 'p.fusco', '--routing', 'routing')).matches).toBe(true);

    const other = RAGGED.map((tokens) => tokens.map((ids) => [...ids]));
    const last = other.flat().at(-1)!;
    [last[0], last[1]] = [last[1]!, last[0]!];
    saveRoutingByRank('other', other, 3);
    const wrong = await fusco('verify', 'p.fusco', '--routing', 'other');
    expect(wrong).toMatchObject({ code: 1, stdout: '' });
    expect(wrong.stderr).toMatch(/^p\.fusco is not the plan of other: .+\n$/);
    const json = await fusco('verify', 'p.fusco', '--routing', 'other', '--json');
    expect(json.code).toBe(1);
    expect(JSON.parse(json.stdout)).toMatchObject({ planId, verified: true, matches: false });
  });
});
