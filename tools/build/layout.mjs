// Writes native/core/plan_layout.h from planner/format/layout.ts, so that the layout of a shard is written down once.
// `--check` compares instead of writing.

import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const source = fileURLToPath(new URL('../../planner/format/layout.ts', import.meta.url));
const target = fileURLToPath(new URL('../../native/core/plan_layout.h', import.meta.url));

/** The C header for the text of layout.ts: every exported integer constant, with its comment. */
export function layoutHeader(text) {
  const lines = [
    '/* Generated from planner/format/layout.ts by `npm run build:layout`; do not edit. */',
    '#ifndef FUSCO_PLAN_LAYOUT_H',
    '#define FUSCO_PLAN_LAYOUT_H',
    '',
  ];
  for (const line of text.split('\n').slice(text.split('\n').indexOf('') + 1)) {
    const comment = /^\/\*\* (.*) \*\/$/.exec(line) ?? /^\/\/ (.*)$/.exec(line);
    if (comment) lines.push(`/* ${comment[1]} */`);
    const constant = /^export const (\w+) = (-?(?:0x[0-9a-f]+|\d+));$/.exec(line);
    if (!constant) {
      if (line.startsWith('export')) throw new Error(`layout.ts: not an integer constant: ${line}`);
      continue;
    }
    const value = Number(constant[2]);
    lines.push(
      `#define FUSCO_${constant[1]} ${value < 0 ? `(${value})` : `${value}${value > 0x7fffffff ? 'u' : ''}`}`,
    );
  }
  return [...lines, '', '#endif', ''].join('\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const header = layoutHeader(readFileSync(source, 'utf8'));
  if (!process.argv.includes('--check')) writeFileSync(target, header);
  else if (readFileSync(target, 'utf8') !== header) {
    process.stderr.write('native/core/plan_layout.h is out of date: npm run build:layout\n');
    process.exitCode = 1;
  }
}
