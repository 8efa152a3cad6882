// What the documentation names exists: relative links, paths of the source tree, and functions of named files.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import { ROOT } from '../support/programs.ts';

const pages = [
  ...readdirSync(ROOT).filter((file) => file.endsWith('.md')),
  ...readdirSync(join(ROOT, 'docs'))
    .filter((file) => file.endsWith('.md'))
    .map((file) => `docs/${file}`),
];

it.each(pages)('%s', (page) => {
  const text = readFileSync(join(ROOT, page), 'utf8');
  const links = [...text.matchAll(/\]\(([^)\s#]+)(?:#[^)]*)?\)/g)]
    .map((match) => match[1]!)
    .filter((target) => !/^[a-z]+:/.test(target))
    .map((target) => join(dirname(page), target));
  const paths = [...text.matchAll(/`((?:planner|executor|native|tools|test|docs|examples)\/[\w./-]*)`/g)].map(
    (match) => match[1]!,
  );
  const missing = [...links, ...paths].filter((path) => !existsSync(join(ROOT, path)));
  // A name in capitals stands for any name: test/fuzz/findings/TARGET.
  expect(missing.filter((path) => !/\/[A-Z]+(\.\w+)?$/.test(path))).toEqual([]);
});

/** `path:name` of every `path` (`name`…) or `path` (`name`, `other`) whose file does not contain the name. */
function missingNames(text: string): string[] {
  return [...text.matchAll(/`([\w./-]+\/[\w.-]+)` \(((?:`[\w:]+`(?:, | and )?)+)/g)]
    .filter(([, path]) => existsSync(join(ROOT, path!)))
    .flatMap(([, path, names]) => {
      const source = new Set(readFileSync(join(ROOT, path!), 'utf8').match(/\w+/g));
      return [...names!.matchAll(/(\w+)`/g)]
        .map((name) => [path!, name[1]!] as const)
        .filter(([, name]) => !source.has(name));
    })
    .map(([path, name]) => `${path}:${name}`);
}

it.each(pages)('%s names functions that their files contain', (page) => {
  expect(missingNames(readFileSync(join(ROOT, page), 'utf8').replace(/\s+/g, ' '))).toEqual([]);
});

it('notices a name that a file does not contain', () => {
  const text = '`planner/errors.ts` (`FuscoError`, `checkNothing`) and `planner/errors.ts` (`E_GONE`: text)';
  expect(missingNames(text)).toEqual(['planner/errors.ts:checkNothing', 'planner/errors.ts:E_GONE']);
});
