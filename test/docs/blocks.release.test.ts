// Every code block of README.md and docs/, in an empty project with the packed package: programs run as they are printed,
// fusco's commands run one after the other, and what cannot be run there is listed with the reason.

import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Installed, installPackage, root } from '../package/support.ts';
import { saveRouting } from '../support/cli.ts';
import { makeRouting } from '../support/workloads.ts';

interface Block {
  readonly page: string;
  readonly language: string;
  readonly text: string;
  readonly line: number;
}

const PAGES = [
  'README.md',
  'CONTRIBUTING.md',
  ...readdirSync(join(root, 'docs'))
    .filter((file) => file.endsWith('.md'))
    .map((file) => `docs/${file}`),
];

function blocksOf(page: string): Block[] {
  const text = readFileSync(join(root, page), 'utf8');
  return [...text.matchAll(/^```(\w*) *\n(.*?)^```$/gms)].map(({ 1: language, 2: body, index }) => ({
    page,
    language: language!,
    text: body!,
    line: text.slice(0, index).split('\n').length,
  }));
}

const BLOCKS = PAGES.flatMap(blocksOf);
const of = (...languages: string[]) => BLOCKS.filter(({ language }) => languages.includes(language));
const named = ({ page, line }: Block) => `${page}:${line}`;

/** What is not run here, by words of the block or line, and why. */
const ELSEWHERE: readonly (readonly [word: RegExp, why: string])[] = [
  [/backend: 'nccl'|connect\(\)/, 'needs a launcher: test/docs/multi-process.test.ts'],
  [
    /^(npm|git|pip|npx (vitest|tsc)|export|cd|\.ci\/run)\b/,
    'works in a checkout; test/lanes.test.ts and CI run it',
  ],
  [/^(fusco launch|torchrun|srun|mpirun)\b/, 'needs a program of the reader, or a cluster'],
  [/^(npx )?fusco (view|demo|doctor)\b/, 'test/package/install.release.test.ts runs it'],
  [/^(npx )?fusco check\b/, 'test/tools/golden/docs.slow.test.ts runs it'],
  [/^(npx )?fusco bench (cuda|gpus|nccl|host|plan|scale|compare)\b/, 'measures; some need a GPU'],
  [/^(node |sudo |tools\/|for |done|[A-Z_]+=|cmake |ncu |nsys |sh )/, 'needs a checkout or a GPU'],
];

function isElsewhere(text: string): boolean {
  return ELSEWHERE.some(([word]) => word.test(text));
}

let project: Installed;

beforeAll(() => {
  project = installPackage();
  const home = process.cwd();
  process.chdir(project.home);
  try {
    mkdirSync('routing');
    const routing = makeRouting({ family: 'balanced', seed: 3, ranks: 4, tokens: 32, topk: 2, experts: 8 });
    saveRouting('routing.npy', routing);
    cpSync('routing.npy', 'routing/step7.npy');
    const counts = Array.from({ length: 58 }, (_, step) => [
      Array.from({ length: 256 }, (_, expert) => (7 * expert + step) % 13),
    ]);
    writeFileSync('steps.json', JSON.stringify({ logical_count: counts }));
    for (const [name, shift] of [
      ['t.json', 0],
      ['r.json', 1],
    ] as const)
      writeFileSync(name, JSON.stringify(Array.from({ length: 256 }, (_, expert) => (expert + shift) % 4)));
  } finally {
    process.chdir(home);
  }
  for (const name of ['vitest', '@types'])
    symlinkSync(join(root, 'node_modules', name), join(project.home, 'node_modules', name));
}, 300_000);

afterAll(() => rmSync(project.home, { recursive: true, force: true }));

describe('programs', () => {
  it.each(of('js', 'mjs').map((block) => [named(block), block] as const))(
    '%s runs as printed',
    (_, { text }) => {
      writeFileSync(join(project.home, 'block.mjs'), text);
      const { status, stderr } = project.run(process.execPath, 'block.mjs');
      expect([status, stderr]).toEqual([0, '']);
    },
  );

  /** The blocks of a page are one program where they go on from each other. */
  const programs = [...new Set(of('ts').map(({ page }) => page))]
    .map((page) => [page, of('ts').filter((block) => block.page === page)] as const)
    .map(
      ([page, blocks]) =>
        [
          page,
          blocks
            .filter(({ text }) => !isElsewhere(text))
            .map(({ text }) => text)
            .join('\n'),
        ] as const,
    )
    .filter(([, text]) => text !== '');

  it.each(programs)('%s: the TypeScript has correct types and runs', { timeout: 120_000 }, (_, text) => {
    const isTest = text.includes("from 'vitest'");
    const file = isTest ? 'block.test.ts' : 'block.mts';
    writeFileSync(join(project.home, file), text);
    const options = [
      '--strict',
      '--module',
      'nodenext',
      '--target',
      'es2022',
      '--types',
      'node',
      '--skipLibCheck',
    ];
    const lib = ['--lib', 'es2023,dom,esnext.disposable', '--ignoreConfig'];
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    const compiled = project.run(
      process.execPath,
      tsc,
      ...options,
      ...lib,
      ...(isTest ? ['--noEmit'] : []),
      file,
    );
    expect([compiled.status, compiled.stdout]).toEqual([0, '']);
    const args = isTest ? ['node_modules/vitest/vitest.mjs', 'run', file] : ['block.mjs'];
    const { status, stdout, stderr } = project.run(process.execPath, ...args);
    expect([status, status === 0 ? '' : stdout + stderr]).toEqual([0, '']);
  });
});

describe('commands', () => {
  const lines = of('sh', 'text', '').flatMap(({ page, line, text }) =>
    text
      .replaceAll('\\\n', ' ')
      .split('\n')
      .map((command) => ({
        at: `${page}:${line}`,
        command: command
          .replace(/^\$ /, '')
          .replace(/ +#.*$/, '')
          .trim(),
      }))
      .filter(({ command }) => /^(npx )?fusco (?!rank)[a-z]/.test(command)),
  );

  it('of fusco that are printed are run here, unless a list says why not', () => {
    expect(lines.length).toBeGreaterThan(10);
    const problems: string[] = [];
    const files = new Set(['step.fusco', 'before.fusco', 'after.fusco', 'a.fusco', 'b.fusco', 'plan.fusco']);
    for (const file of files) {
      const more = file === 'after.fusco' || file === 'b.fusco' ? ['--align', '16'] : [];
      const { status, stderr } = project.run(
        'npx',
        ...['--no-install', 'fusco', 'plan', 'routing.npy', '--experts', '8', '-o', file, ...more],
      );
      if (status !== 0) problems.push(stderr);
    }
    for (const { at, command } of lines) {
      if (
        isElsewhere(command) ||
        /traces?\/|(responses|sglang)\.jsonl|routed\.npy|PLAN|FILE|ROUTING/.test(command)
      )
        continue;
      const run = project.run('sh', '-c', command.replace(/^(npx )?fusco/, 'npx --no-install fusco'));
      // 1 is a comparison that found something.
      const isFine = run.status === 0 || (run.status === 1 && /^(npx )?fusco diff/.test(command));
      if (!isFine) problems.push(`${at}: ${command}: ${run.status} ${run.stderr}`);
    }
    expect(problems).toEqual([]);
  }, 300_000);

  it('of the shell are fusco or known to be run elsewhere', () => {
    const others = of('sh').flatMap(({ page, line, text }) =>
      text
        .replaceAll('\\\n', ' ')
        .split('\n')
        .map((command) => command.trim())
        .filter((command) => command !== '' && !command.startsWith('#') && !/^(npx )?fusco /.test(command))
        .map((command) => [`${page}:${line}`, command] as const),
    );
    expect(others.filter(([, command]) => !isElsewhere(command))).toEqual([]);
  });
});

it('JSON blocks are JSON, and no language is left out', () => {
  for (const { text } of of('json')) JSON.parse(text);
  const known = ['', 'js', 'mjs', 'ts', 'sh', 'json', 'yaml', 'text', 'python', 'msgpack'];
  expect(BLOCKS.filter(({ language }) => !known.includes(language)).map(named)).toEqual([]);
});
