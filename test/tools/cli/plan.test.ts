// plan, inspect, export, verify and diff: what they print and write, against numbers from the obvious plan.

import { existsSync, readFileSync, statSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { placementOf } from '../../../planner/placement.ts';
import { choiceLines } from '../../../tools/cli/planNotes.ts';
import { describeNative } from '../../support/addon.ts';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  loadInts,
  save,
  saveNpy,
  saveRouting,
  saveRoutingByRank,
  snapshot,
  useTemporaryDirectory,
} from '../../support/cli.ts';
import { type ObviousRank, obviousPlan, type PlainRouting } from '../../support/obviousPlan.ts';
import { makeRouting } from '../../support/workloads.ts';

useTemporaryDirectory();

const SIZES = { ranks: 4, topk: 3, experts: 8 };
const EVEN = makeRouting({ family: 'hotExperts', seed: 9, tokens: 10, masked: 0.1, ...SIZES });
const RAGGED = makeRouting({ family: 'raggedSources', seed: 4, tokens: 30, masked: 0.1, ...SIZES });
const PLACEMENT = [3, 3, [0, 2], 1, 0, 2, 1, 3];

const ROW_BYTES = 16 * 4;
const LAYOUT = ['--align', '4', '--capacity', '18', '--ranks-per-node', '2'];
const ROW = ['--hidden', '16', '--dtype', 'f32'];

function expectedPlan(routing: PlainRouting): ObviousRank[] {
  const options = { ranks: 4, experts: 8, align: 4, capacity: 18, ranksPerNode: 2, placement: PLACEMENT };
  return obviousPlan(routing, options);
}

/** Plans RAGGED with every option there is, as p.fusco. */
async function planEverything(): Promise<Record<string, unknown>> {
  saveRoutingByRank('routing', RAGGED, 3);
  save('placement.json', JSON.stringify(PLACEMENT));
  return fuscoJson(
    'plan',
    'routing',
    '-o',
    'p.fusco',
    '--experts',
    '8',
    ...LAYOUT,
    ...ROW,
    '--placement',
    'placement.json',
  );
}

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

describe('fusco plan', () => {
  it('writes one plan file and says so on stderr alone', async () => {
    saveRouting('r.npy', EVEN);
    const { code, stdout, stderr } = await fusco('plan', 'r.npy', '-o', 'p.fusco', '--experts', '8');
    expect([code, stdout]).toEqual([0, '']);
    const [note, first, ...notes] = stderr.trimEnd().split('\n');
    expect(note).toMatch(/^note: r\.npy: axes /);
    expect(first).toMatch(/^plan [0-9a-f]{12}: 4 ranks, 120 entries, .* -> p\.fusco$/);
    const masked = EVEN.flat(2).filter((id) => id < 0).length;
    expect(notes).toEqual([
      '  assumed: hidden 7168 (--hidden), bf16 (--dtype), 4 ranks per node (--ranks-per-node), flat (--strategy)',
      `  ${masked} of 120 entries (${((100 * masked) / 120).toFixed(1)} %) masked: they choose no expert`,
    ]);
    expect(Object.keys(snapshot())).toEqual(['p.fusco', 'r.npy']);
  });

  it('says what a capacity drops, in words and as JSON, and nothing that was asked for', async () => {
    saveRouting('r.npy', Array(2).fill([[0], [0], [1]]));
    const asked = ['--hidden', '8', '--dtype', 'f32', '--strategy', 'flat', '--ranks-per-node', '2'];
    const { stderr } = await fusco('plan', 'r.npy', '--experts', '2', '--capacity', '3', ...asked);
    expect(stderr.split('\n').slice(2)).toEqual([
      '  1 of 6 entries (16.7 %) dropped: beyond the capacity of 3 rows per expert',
      '',
    ]);
    // The plan is named as the routing.
    const json = await fuscoJson('plan', 'r.npy', '--experts', '2', '--capacity', '3', ...asked);
    expect(json).toMatchObject({ file: 'r.fusco', droppedEntries: 1, maskedEntries: 0 });
    expect((await fuscoJson('inspect', 'r.fusco')).droppedEntries).toBe(1);
  });

  it('says what auto chose, and the times that the model predicts', async () => {
    saveRouting(
      'r.npy',
      Array(4).fill(Array.from({ length: 64 }, (_, i) => [i % 8, (i + 1) % 8, (i + 2) % 8])),
    );
    const { stderr } = await fusco('plan', 'r.npy', '--experts', '8', '--strategy', 'auto', '-o', 'p.fusco');
    expect(stderr).toMatch(
      /^ {2}auto chose once per rank: predicted [\d.]+ us for dispatch and combine; flat fused [\d.]+ us \(model, h100-nvl8\)$/m,
    );
    expect(stderr).not.toContain('faster');
    const json = await fuscoJson('plan', 'r.npy', '--experts', '8', '--strategy', 'auto', '-o', 'p.fusco');
    const { choices } = json.auto as { choices: { strategy: string; us: number; isPlanned: boolean }[] };
    expect(choices.map(({ strategy, isPlanned }) => [strategy, isPlanned])).toEqual([
      ['once per rank', true],
      ['flat fused', false],
    ]);
    const lines = choiceLines({
      topology: 'box',
      choices: [
        { strategy: 'flat fused', us: 20, isPlanned: true, options: '--strategy flat' },
        { strategy: 'once per rank', us: 10, isPlanned: false, options: '--ranks-per-node 1' },
      ],
    });
    expect(lines[1]).toBe('  once per rank is predicted to be faster: --ranks-per-node 1');
  });

  it('names everything that is missing at once, and a misspelt option before that', async () => {
    expectRefusal(
      await fusco('workload', 'balanced'),
      'E_USAGE',
      /workload needs -o, --output <path> and --ranks <n> and/,
    );
    saveRouting('r.npy', EVEN);
    expectRefusal(await fusco('plan', 'r.npy', '--expert', '8'), 'E_USAGE', /'--expert'.*--experts/);
  });

  it('gives id, file and size as JSON; the id is the one that inspect and verify find', async () => {
    const planned = await planEverything();
    expect(planned).toMatchObject({ file: 'p.fusco', bytes: statSync('p.fusco').size });
    expect(planned.planId).toMatch(/^[0-9a-f]{64}$/);
    expect((await fuscoJson('inspect', 'p.fusco')).planId).toBe(planned.planId);
    expect(await fuscoJson('verify', 'p.fusco')).toMatchObject({ planId: planned.planId, verified: true });
  });

  it('makes the same file from the same routing in any form and dtype', async () => {
    saveRouting('r.npy', EVEN);
    saveRoutingByRank('by-rank', EVEN, 3);
    saveNpy('flat.npy', 'i32', [40, 3], Int32Array.from(EVEN.flat(2)));
    for (const [routing, ...more] of [
      ['r.npy'],
      ['by-rank'],
      ['flat.npy', '--ranks', '4'],
      ['r.npy', '--ranks', '4'],
    ]) {
      await fuscoJson('plan', routing!, '-o', 'p.fusco', '--experts', '8', ...more);
      const bytes = readFileSync('p.fusco');
      if (existsSync('first.fusco')) expect(bytes.equals(readFileSync('first.fusco'))).toBe(true);
      else save('first.fusco', bytes);
    }
  });

  it('splits a 2-D array into contiguous, nearly equal blocks', async () => {
    saveNpy('flat.npy', 'u8', [10, 1], Uint8Array.from([0, 1, 2, 3, 0, 1, 2, 3, 0, 1]));
    await fuscoJson('plan', 'flat.npy', '-o', 'p.fusco', '--experts', '4', '--ranks', '4');
    expect((await fuscoJson('inspect', 'p.fusco')).tokens).toEqual([3, 3, 2, 2]);
  });

  it('has the documented defaults', async () => {
    saveRouting('r.npy', EVEN);
    await fuscoJson('plan', 'r.npy', '-o', 'p.fusco', '--experts', '8');
    expect(await fuscoJson('inspect', 'p.fusco')).toMatchObject({
      ranks: 4,
      ranksPerNode: 4,
      hidden: 7168,
      dtype: 'bf16',
      rowBytes: 14336,
      align: 1,
      capacity: 0,
      strategy: 'flat',
      droppedEntries: 0,
      paddingRows: 0,
    });
  });

  it('replaces an older plan of that name', async () => {
    saveRouting('r.npy', EVEN);
    save('p.fusco', 'something else');
    await fuscoJson('plan', 'r.npy', '-o', 'p.fusco', '--experts', '8');
    expect((await fusco('verify', 'p.fusco')).code).toBe(0);
  });
});

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
    expect(lines.length).toBeLessThanOrEqual(32);
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

describe('fusco diff', () => {
  const planAs = async (file: string, routing: PlainRouting, ...options: string[]) => {
    saveRouting('r.npy', routing);
    return (await fuscoJson('plan', 'r.npy', '-o', file, '--experts', '8', ...options)).planId as string;
  };

  it('finds no difference between equal plans', async () => {
    const id = await planAs('a.fusco', EVEN);
    await planAs('b.fusco', EVEN);
    const text = await fusco('diff', 'a.fusco', 'b.fusco');
    expect(text).toEqual({
      code: 0,
      stdout: `identical  ${id.slice(0, 12)} -> ${id.slice(0, 12)}\n`,
      stderr: '',
    });
    expect(await fuscoJson('diff', 'a.fusco', 'b.fusco')).toMatchObject({
      from: id,
      to: id,
      changed: false,
      level: 'identical',
      movedEntries: 0,
    });
  });

  it('names the ranks, experts and entries that one changed token touches', async () => {
    // On rank 2, token 0 leaves expert 0 for expert 7; on the way every later row of expert 0 moves up by one.
    const before: PlainRouting = [[[0]], [[1]], [[0], [5]], [[0]]];
    const after: PlainRouting = [[[0]], [[1]], [[7], [5]], [[0]]];
    saveRoutingByRank('before', before, 1);
    saveRoutingByRank('after', after, 1);
    const from = (await fuscoJson('plan', 'before', '-o', 'a.fusco', '--experts', '8')).planId;
    const to = (await fuscoJson('plan', 'after', '-o', 'b.fusco', '--experts', '8')).planId;
    const { code, stdout, stderr } = await fusco('diff', 'a.fusco', 'b.fusco', '--json');
    expect([code, stderr]).toEqual([1, '']);
    expect(JSON.parse(stdout)).toMatchObject({
      formatVersion: 1,
      from,
      to,
      changed: true,
      level: 'result',
      options: [],
      ranks: {
        tokens: [],
        recvRows: [
          { index: 0, from: 4, to: 3 },
          { index: 3, from: 0, to: 1 },
        ],
        keptRows: [],
      },
      experts: [
        { index: 0, from: 3, to: 2 },
        { index: 7, from: 0, to: 1 },
      ],
    });
    expect(JSON.parse(stdout).moves).toContainEqual({
      rank: 2,
      token: 0,
      k: 0,
      from: 'expert 0 on rank 0, row 1',
      to: 'expert 7 on rank 3, row 0',
      why: 'id',
    });
    const text = await fusco('diff', 'a.fusco', 'b.fusco');
    expect(text.code).toBe(1);
    expect(text.stdout).toContain('the result changed');
    expect(text.stdout).toContain('rows of expert 7: 0 -> 1 (+1)');
  });

  it('tells a change of node size from a change of the result', async () => {
    await planAs('a.fusco', EVEN);
    await planAs('b.fusco', EVEN, '--ranks-per-node', '2');
    const { code, stdout } = await fusco('diff', 'a.fusco', 'b.fusco', '--json');
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({
      level: 'movement',
      movedEntries: 0,
      options: [{ option: 'ranksPerNode', from: 4, to: 2 }],
    });
  });
});

describe('--strategy auto', () => {
  // 4 ranks of 2 experts, 2 a node. Rank 0 sends 3 tokens to both experts of rank 2 and 9 tokens to one of rank 3.
  const tokens = [...Array(3).fill([4, 5]), ...Array(9).fill([6, -1])];
  const options = ['--experts', '8', '--ranks-per-node', '2', '--strategy', 'auto', '-o', 'p.fusco'];

  it('settles on once per rank if the ranks share a machine, and says why', async () => {
    saveRoutingByRank('routing', [tokens, [], [], []], 2);
    await fuscoJson('plan', 'routing', ...options, '--ranks-per-host', '4');
    const shown = await fuscoJson('inspect', 'p.fusco');
    expect(shown).toMatchObject({ strategy: 'hier', ranksPerNode: 1 });
    expect(shown.reason).toMatch(/^once per rank has the least busy rank: flat 0 rows between machines/);
    expect((await fusco('inspect', 'p.fusco')).stdout).toMatch(/\nstrategy +hier, once per rank, align 1/);
    expect((await fusco('verify', 'p.fusco', '--routing', 'routing')).code).toBe(0);
  });

  it('refuses ranks of a machine that are no whole nodes', async () => {
    saveRoutingByRank('routing', [tokens, [], [], []], 2);
    expectRefusal(
      await fusco('plan', 'routing', ...options, '--ranks-per-host', '1'),
      'E_OPTION',
      /ranksPerHost 1/,
    );
    expect(existsSync('p.fusco')).toBe(false);
  });
});

describe('which ranks share a node', () => {
  const saveRanks = (ranks: number) =>
    saveRouting(
      'r.npy',
      Array.from({ length: ranks }, (_, rank) => [[rank, (rank + 1) % ranks]]),
    );
  const plan = (ranks: number, ...options: string[]) => {
    saveRanks(ranks);
    return [
      'plan',
      'r.npy',
      '-o',
      'p.fusco',
      '--experts',
      String(ranks),
      '--ranks',
      String(ranks),
      ...options,
    ];
  };
  const nodeSize = async () => (await fuscoJson('inspect', 'p.fusco')).ranksPerNode;

  it.each([
    [11, 1, 'every rank is a node: the largest divisor of 11 up to 8 (--ranks-per-node sets another)'],
    [12, 6, 'nodes of 6 ranks: the largest divisor of 12 up to 8 (--ranks-per-node sets another)'],
    [16, 8, undefined],
    [7, 7, undefined],
  ])('%i ranks: the default is %i, and said where it is not all ranks, or 8', async (ranks, size, line) => {
    const { notices } = await fuscoJson(...plan(ranks));
    expect([await nodeSize(), notices]).toEqual([size, line === undefined ? undefined : [line]]);
    const { stderr } = await fusco(...plan(ranks));
    expect(stderr.startsWith('note: ')).toBe(line !== undefined);
    if (line !== undefined) {
      expect(await fuscoJson(...plan(ranks, '--ranks-per-node', '1'))).not.toHaveProperty('notices');
    }
  });

  it('nodes of one size can be listed; others are refused, with a size that divides them', async () => {
    expect(await fuscoJson(...plan(12, '--node-sizes', '4,4,4'))).not.toHaveProperty('notices');
    expect(await nodeSize()).toBe(4);
    const refused = async (...options: string[]) => (await fusco(...plan(12, ...options))).stderr;
    expect(await refused('--node-sizes', '8,4')).toMatch(
      /^error\[E_OPTION\]: nodes of unequal size \(8, 4\) are not supported: .* \(Use 4 ranks per node: then 3 groups of 4 ranks, each inside one node, are planned as nodes\.\)\n$/,
    );
    expect(await refused('--node-sizes', '8,3')).toMatch(/--node-sizes 8,3 are 11 ranks, not 12/);
    expect(await refused('--node-sizes', '7,5')).toMatch(/Give 1 rank a node/);
    expect(await refused('--node-sizes', '6,6', '--ranks-per-node', '4')).toMatch(/contradicts/);
    expect(await refused('--ranks-per-node', '8')).toMatch(
      /ranksPerNode 8 does not divide 12 ranks: nodes of unequal size are not supported \(Use 4 ranks per node/,
    );
  });
});

describe('rules of placements', () => {
  // Every rank sends one token to each of the 30 experts in turn: its rows count the experts of a rank.
  const saveAll = () => {
    const ids = Array.from({ length: 8 }, (_, rank) =>
      Array.from({ length: 4 }, (_, i) => [rank + 8 * i < 30 ? rank + 8 * i : -1]),
    );
    saveRouting('r.npy', ids);
  };

  it.each([
    ['blocks', [4, 4, 4, 3, 4, 4, 4, 3]],
    ['remainder-first', [4, 4, 4, 4, 4, 4, 3, 3]],
    ['round-robin', [4, 4, 4, 4, 4, 4, 3, 3]],
  ])('%s: 30 experts on 8 ranks', async (rule, rows) => {
    saveAll();
    await fuscoJson('plan', 'r.npy', '--experts', '30', '--placement', rule, '-o', 'p.fusco');
    expect((await fuscoJson('inspect', 'p.fusco')).recvRows).toEqual(rows);
  });

  it('differ in which experts a rank has', () => {
    expect(placementOf('blocks', 5, 2)).toEqual([0, 0, 0, 1, 1]);
    expect(placementOf('blocks', 7, 4)).toEqual([0, 0, 1, 1, 2, 2, 3]);
    expect(placementOf('remainder-first', 6, 4)).toEqual([0, 0, 1, 1, 2, 3]);
    expect(placementOf('remainder-first', 2, 4)).toEqual([0, 1]);
    expect(placementOf('round-robin', 5, 2)).toEqual([0, 1, 0, 1, 0]);
    expect(() => placementOf('diagonal' as never, 5, 2)).toThrow(
      'diagonal is not one of blocks, remainder-first',
    );
  });

  it('blocks by name are the default, with the same plan id', async () => {
    saveAll();
    const plan = ['plan', 'r.npy', '--experts', '30', '-o', 'p.fusco'];
    const { planId } = await fuscoJson(...plan);
    expect((await fuscoJson(...plan, '--placement', 'blocks')).planId).toBe(planId);
  });

  it('a map of trainers is read by its key', async () => {
    saveRouting('six.npy', [[[0, 1]], [[4, 5]]]);
    save('map.json', '{"expert_to_ep_rank": [0, 1, 0, 1, 0, 1]}');
    await fuscoJson('plan', 'six.npy', '--experts', '6', '--placement', 'map.json', '-o', 'p.fusco');
    expect((await fuscoJson('inspect', 'p.fusco')).recvRows).toEqual([2, 2]);
    save('other.json', '{"phy2log": [0, 1, 2]}');
    expectRefusal(
      await fusco('plan', 'six.npy', '--experts', '6', '--placement', 'other.json', '-o', 'p.fusco'),
      'E_PLACEMENT',
      'fusco placement convert',
    );
  });
});

describeNative('fusco plan --planner native', () => {
  const PLAN = ['plan', 'r.npy', '--experts', '8', '--ranks-per-node', '2'];

  it('writes the file that the Wasm planner writes', async () => {
    saveRouting('r.npy', EVEN);
    const hier = [...PLAN, '--strategy', 'hier', '--sum', 'token'];
    const wasm = await fuscoJson(...hier, '-o', 'wasm.fusco');
    const native = await fuscoJson(...hier, '-o', 'native.fusco', '--planner', 'native');
    expect(native.planId).toBe(wasm.planId);
    expect(readFileSync('native.fusco')).toEqual(readFileSync('wasm.fusco'));
  });

  it('refuses --strategy auto', async () => {
    saveRouting('r.npy', EVEN);
    const auto = ['--strategy', 'auto', '--planner', 'native'];
    expectRefusal(await fusco(...PLAN, ...auto, '-o', 'p.fusco'), 'E_OPTION', /settled by the Wasm planner/);
    expect(existsSync('p.fusco')).toBe(false);
  });

  it('refuses --stream', async () => {
    saveRouting('r.npy', EVEN);
    const { code, stderr } = await fusco(...PLAN, '-o', 'p.fusco', '--planner', 'native', '--stream');
    expect(code).toBe(2);
    expect(stderr).toMatch(/^error\[E_OPTION\]: --planner native plans whole groups: leave out --stream/);
  });
});
