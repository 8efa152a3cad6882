// `fusco diff`: what it says of plans whose routing, options or node size differ.

import { describe, expect, it } from 'vitest';
import {
  fusco,
  fuscoJson,
  saveRouting,
  saveRoutingByRank,
  useTemporaryDirectory,
} from '../../support/cli.ts';
import type { PlainRouting } from '../../support/obviousPlan.ts';
import { EVEN } from './support.ts';

useTemporaryDirectory();

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
