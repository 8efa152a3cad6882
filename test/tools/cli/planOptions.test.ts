// Options of `fusco plan`: the strategy auto, which ranks share a node, and rules of placements.

import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { placementOf } from '../../../planner/placement.ts';
import {
  expectRefusal,
  fusco,
  fuscoJson,
  save,
  saveRouting,
  saveRoutingByRank,
  useTemporaryDirectory,
} from '../../support/cli.ts';

useTemporaryDirectory();

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
