// `fusco plan`: what it prints and writes, with each planner.

import { existsSync, readFileSync, statSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { choiceLines } from '../../../tools/cli/planNotes.ts';
import { describeNative } from '../../support/addon.ts';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  save,
  saveNpy,
  saveRouting,
  saveRoutingByRank,
  snapshot,
  useTemporaryDirectory,
} from '../../support/cli.ts';
import { EVEN, planEverything } from './support.ts';

useTemporaryDirectory();

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

describeNative('fusco plan --planner native', () => {
  const PLAN = ['plan', 'r.npy', '--experts', '8', '--ranks-per-node', '2'];

  it.each(['--strategy hier --sum token', '--strategy auto', '--strategy auto --ranks-per-host 4'])(
    'writes the file that the Wasm planner writes: %s',
    async (strategy) => {
      saveRouting('r.npy', EVEN);
      const plan = [...PLAN, ...strategy.split(' ')];
      const wasm = await fuscoJson(...plan, '-o', 'wasm.fusco');
      const native = await fuscoJson(...plan, '-o', 'native.fusco', '--planner', 'native');
      expect(native.planId).toBe(wasm.planId);
      expect(native.auto).toEqual(wasm.auto);
      expect(readFileSync('native.fusco')).toEqual(readFileSync('wasm.fusco'));
    },
  );

  it('refuses --stream', async () => {
    saveRouting('r.npy', EVEN);
    const { code, stderr } = await fusco(...PLAN, '-o', 'p.fusco', '--planner', 'native', '--stream');
    expect(code).toBe(2);
    expect(stderr).toMatch(/^error\[E_OPTION\]: --planner native plans whole groups: leave out --stream/);
  });
});
