// What the documentation points at is there: relative links, and paths of the source tree.

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
