// What holds for all commands: the README lists them, and what `--json` prints has a version.

import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { beforeEach, describe, expect, it } from 'vitest';
import { findBenchAddon } from '../../../executor/internal.ts';
import { EXAMPLES } from '../../../tools/cli/examples.ts';
import { JSON_FORMAT_VERSION } from '../../../tools/cli/io.ts';
import { createProgram } from '../../../tools/cli/main.ts';
import {
  fusco,
  ROOT,
  save,
  saveNpy,
  saveRouting,
  spawnFusco,
  useTemporaryDirectory,
} from '../../support/cli.ts';
import { makeRouting } from '../../support/workloads.ts';

/** Commands that do something, by their words: `bench host`. */
function leaves({ commands }: Command, words = ''): [string, Command][] {
  return commands.flatMap((made): [string, Command][] => {
    const name = `${words}${made.name()}`;
    return made.commands.length === 0 ? [[name, made]] : leaves(made, `${name} `);
  });
}

const COMMANDS = new Map(leaves(createProgram()));

describe("a command's help", () => {
  it.each([...COMMANDS])('of %s ends with examples, whose options the command has', (name, made) => {
    const examples = EXAMPLES[name] ?? [];
    expect(examples.length).toBeGreaterThan(0);
    for (const line of examples) {
      const calls = line.split(' | ').filter((call) => call.includes(`fusco ${name}`));
      expect([line, calls.length]).toEqual([line, 1]);
      const [, given] = calls[0]!.split(`fusco ${name}`);
      for (const [option] of given!.matchAll(/(?<= )--?[a-z][a-z-]*/g)) {
        const found = made.options.some(({ short, long }) => option === short || option === long);
        expect([line, option, found]).toEqual([line, option, true]);
      }
    }
  });

  it('shows them', async () => {
    const { stdout } = await fusco('placement', 'propose', '--help');
    expect(stdout).toContain(`\nExamples:\n  ${EXAMPLES['placement propose']!.join('\n  ')}\n`);
  });
});

describe("the README's table of commands", () => {
  const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
  const rows = [...readme.matchAll(/^\| `fusco ([a-z]+) ?([^`]*)` \|/gm)];
  /** The words of each row; alternatives of a subcommand are separated by escaped bars. */
  const listed = rows.flatMap(([, name, rest]) => {
    const words = rest!.split(' ')[0]!;
    return /^[a-z]+(\\\|[a-z]+)*$/.test(words)
      ? words.split('\\|').map((word) => `${name} ${word}`)
      : [name!];
  });

  it('has every command', () => {
    expect([...COMMANDS.keys()].filter((name) => !listed.includes(name))).toEqual([]);
  });

  it('has no other, and none twice', () => {
    expect(listed.filter((name) => !COMMANDS.has(name))).toEqual([]);
    expect(new Set(listed).size).toBe(listed.length);
  });

  it('names options and arguments that the commands have', () => {
    for (const [row, name] of rows) {
      for (const [option] of row.matchAll(/(?<=[ [])--?[a-z][a-z-]*(?=[ \]`])/g)) {
        const found = COMMANDS.get(name!)?.options.some(
          ({ short, long }) => option === short || option === long,
        );
        expect([name, option, found]).toEqual([name, option, true]);
      }
    }
  });
});

describe('--json', () => {
  useTemporaryDirectory();

  const EXPERTS = '8';
  /** Arguments of each command that has `--json`, for files that the test makes. */
  const ARGUMENTS: Readonly<Record<string, readonly string[]>> = {
    plan: ['routing.npy', '--experts', EXPERTS, '-o', 'other.fusco'],
    inspect: ['plan.fusco'],
    verify: ['plan.fusco'],
    export: ['plan.fusco', '--out', 'out'],
    run: ['plan.fusco', '--input', 'x.npy', '--out', 'out', '--backend', 'reference'],
    diff: ['plan.fusco', 'plan.fusco'],
    check: ['golden.json'],
    audit: ['plan.fusco', '--input', 'x.npy', '--combined', 'sum.npy'],
    simulate: ['plan.fusco', '--topology', 'h100-8x8'],
    workload: [
      'balanced',
      '-o',
      'w.npy',
      '--ranks',
      '2',
      '--tokens',
      '3',
      '--topk',
      '2',
      '--experts',
      EXPERTS,
    ],
    'placement propose': ['--routing', 'routing.npy', '--experts', EXPERTS, '--ranks', '4', '-o', 'map.json'],
    'placement convert': ['phy2log.json', '--format', 'phy2log', '--ranks', '4', '-o', 'map.json'],
    doctor: [],
    'bench plan': ['--routing', 'routing.npy', '--experts', EXPERTS, '--rounds', '1'],
    'bench host': ['--ranks', '2', '--tokens', '4', '--hidden', '8', '--rounds', '1'],
    'bench scale': ['--ranks', '8', '--tokens', '8'],
    'bench compare': ['old', 'new'],
    'bench cuda': [],
    'bench gpus': [],
    'bench nccl': [],
  };
  /** These need GPUs, and print through the same function as the other benches. */
  const NEEDS_GPU = ['bench cuda', 'bench gpus', 'bench nccl'];

  beforeEach(async () => {
    const workload = { family: 'balanced', seed: 2, ranks: 4, tokens: 6, topk: 2, experts: 8 } as const;
    saveRouting('routing.npy', makeRouting(workload));
    saveNpy('x.npy', 'f32', [4, 6, 4], new Float32Array(96).fill(1));
    // Two experts return each row of ones.
    saveNpy('sum.npy', 'f32', [4, 6, 4], new Float32Array(96).fill(2));
    save('phy2log.json', '[0, 1, 2, 3, 4, 5, 6, 7]');
    for (const folder of ['old', 'new']) {
      mkdirSync(folder);
      save(`${folder}/host-1.json`, JSON.stringify({ dispatch: { ms: 1 } }));
    }
    save('golden.json', JSON.stringify({ formatVersion: 1, plans: {} }));
    await fusco('plan', 'routing.npy', '--experts', EXPERTS, '-o', 'plan.fusco');
  });

  it('is tried for every command that has it', () => {
    const having = [...COMMANDS].filter(([, { options }]) => options.some(({ long }) => long === '--json'));
    expect(having.map(([name]) => name).sort()).toEqual(Object.keys(ARGUMENTS).sort());
  });

  const absent = findBenchAddon().addon === undefined ? [...NEEDS_GPU, 'bench host', 'audit'] : NEEDS_GPU;
  const here = Object.keys(ARGUMENTS).filter((name) => !absent.includes(name));
  it.each(here)('of %s prints one object with its formatVersion', async (name) => {
    // It starts processes of the built program.
    const start = name === 'bench scale' ? spawnFusco : fusco;
    const { stdout, stderr, code } = await start(...name.split(' '), ...ARGUMENTS[name]!, '--json');
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout.trimEnd().split('\n')).toHaveLength(1);
    expect(JSON.parse(stdout)).toMatchObject({ formatVersion: JSON_FORMAT_VERSION });
  });

  it('of diff is the same as its --format json', async () => {
    const [a, b] = [
      await fusco('diff', 'plan.fusco', 'plan.fusco', '--json'),
      await fusco('diff', 'plan.fusco', 'plan.fusco', '--format', 'json'),
    ];
    expect(b).toEqual(a);
  });
});
