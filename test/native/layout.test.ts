import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { layoutHeader } from '../../tools/build/layout.mjs';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

it('native/core/plan_layout.h is what `npm run build:layout` makes of planner/format/layout.ts', () => {
  expect(read('native/core/plan_layout.h')).toBe(layoutHeader(read('planner/format/layout.ts')));
});

it('every constant of the layout reaches the header', () => {
  const constants = read('planner/format/layout.ts').match(/^export const \w+/gm) ?? [];
  const defines = read('native/core/plan_layout.h').match(/^#define FUSCO_\w+ \S+$/gm) ?? [];
  expect(constants.length).toBeGreaterThan(40);
  expect(defines.length).toBe(constants.length);
});

it('anything but an integer constant in the layout is refused', () => {
  expect(() => layoutHeader('\nexport const RATIO = 1.5;')).toThrow('not an integer constant');
});
