// docs/environment.md lists the environment variables that the code reads, all of them and no others.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { ROOT } from '../support/programs.ts';

/** Variables that a text reads, by the ways in which this code reads them. */
function variablesOf(text: string): string[] {
  const all = (pattern: RegExp) => [...text.matchAll(pattern)].map((match) => match[1]!);
  return [
    ...all(/\b(?:env|environment)\.([A-Z][A-Z\d]*(?:_\w+)?)\b(?! = )/g), // process.env.NAME, read
    ...all(/\bgetenv\("([A-Z\d_]+)"\)/g), // C
    ...all(/\benviron\.get\("(FUSCO_[A-Z\d_]+)"/g), // Python
    ...all(/\$\{([A-Z][A-Z\d_]+):?-/g), // ${NAME:-default} in a shell script
    // find(env, 'NAME', 'OTHER')
    ...all(/\b(?:find|integerVariable)\(\s*(?:env|environment),([^)]*)\)/g).flatMap((names) =>
      [...names.matchAll(/'(\w+)'/g)].map((match) => match[1]!),
    ),
    // const { NAME, OTHER: other } = process.env;
    ...all(/\bconst \{([^{}]*)\} = (?:process\.)?env;/g).flatMap(
      (names) => names.match(/\b[A-Z][A-Z\d_]+\b/g) ?? [],
    ),
  ];
}

const filesOf = (folder: string): string[] =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.([cm]?[jt]s|cc|c|hpp|cu|sh|py)$/.test(file) && !file.endsWith('environment.test.ts'))
    .map((file) => readFileSync(join(ROOT, folder, file), 'utf8'));

const documented = [
  ...readFileSync(join(ROOT, 'docs/environment.md'), 'utf8').matchAll(/^\| ((?:`[A-Za-z\d_]+`(?:, )?)+)/gm),
].flatMap((row) => [...row[1]!.matchAll(/`(\w+)`/g)].map((match) => match[1]!));

it('lists what the library, the command line, the build and the test scripts read', () => {
  const read = ['executor', 'planner', 'native', 'tools', 'examples', 'test']
    .flatMap(filesOf)
    .flatMap(variablesOf);
  // What a test passes on to its own children, and the shell's own.
  const ignored = new Set(['PATH', 'HOME']);
  expect([...new Set(documented)].sort()).toEqual(
    [...new Set(read)].filter((name) => !ignored.has(name)).sort(),
  );
});

it('lists no variable twice', () => {
  expect(new Set(documented).size).toBe(documented.length);
});

it('finds a variable however it is read', () => {
  const text = `process.env.ONE_A; find(env, 'TWO_A',\n 'TWO_B'); integerVariable(environment, 'SIX_A', 1, MAX);
    std::getenv("THREE_A"); os.environ.get("FUSCO_A"); const { FOUR_A, FOUR_B: b } = env; echo "\${FIVE_A:-x}"`;
  expect(variablesOf(text).sort()).toEqual(
    ['FIVE_A', 'FUSCO_A', 'FOUR_A', 'FOUR_B', 'ONE_A', 'SIX_A', 'THREE_A', 'TWO_A', 'TWO_B'].sort(),
  );
});
