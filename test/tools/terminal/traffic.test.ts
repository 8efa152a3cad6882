// What people see of a plan in a terminal: pinned pictures of small plans, and 80 columns for every other one.

import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from 'vitest';
import type { PlanOptions } from '../../../planner/spec.ts';
import { summarize } from '../../../tools/figures/summary.ts';
import { bar, shade, sparkline } from '../../../tools/terminal/glyphs.ts';
import { PLAIN, type Style, styleOf } from '../../../tools/terminal/style.ts';
import { drawTraffic } from '../../../tools/terminal/traffic.ts';
import { planOf } from '../../support/buffers.ts';
import type { PlainRouting } from '../../support/obviousPlan.ts';
import { makeRouting } from '../../support/workloads.ts';

const BLOCKS: Style = { ...PLAIN, unicode: true };
const COLORS = styleOf({ isTTY: true }, { LANG: 'C.UTF-8' });

async function draw(
  routing: PlainRouting,
  options: Omit<PlanOptions, 'ranks'>,
  style: Style,
): Promise<string> {
  const topk = routing.flat()[0]?.length ?? 1;
  return drawTraffic(summarize(await planOf(routing, topk, options)), style);
}

/** Rank 0 sends 3 of its 4 rows to rank 1 and one to rank 3; rank 2 keeps its only row. */
const SMALL: PlainRouting = [[[1], [1], [1], [3]], [], [[2]], []];
const OPTIONS = { experts: 4, hidden: 512, ranksPerNode: 2 };

describe('drawTraffic', () => {
  it('in ASCII', async () => {
    expect(await draw(SMALL, OPTIONS, PLAIN)).toMatchInlineSnapshot(`
      "bytes sent, payload only; the darkest cell is the busiest link
      from \\ to     r0     r1     r2     r3
      r0             . #3.00K      . :1.00K
      r1             .      .      .      .
      r2             .      .  1.00K      .
      r3             .      .      .      .
      received  r0              0    r2 ####         1
                r1 ############ 3    r3 ####         1
      experts    @--  at most 3 rows"
    `);
  });

  it('in blocks', async () => {
    expect(await draw(SMALL, OPTIONS, BLOCKS)).toMatchInlineSnapshot(`
      "bytes sent, payload only; the darkest cell is the busiest link
      from \\ to     r0     r1     r2     r3
      r0             . █3.00K      . ▒1.00K
      r1             .      .      .      .
      r2             .      .  1.00K      .
      r3             .      .      .      .
      received  r0              0    r2 ████         1
                r1 ████████████ 3    r3 ████         1
      experts    █▃▃  at most 3 rows"
    `);
  });

  it('in colours that carry nothing that the characters do not', async () => {
    const colored = await draw(SMALL, OPTIONS, COLORS);
    expect(colored).toContain('\u001b[');
    expect(stripVTControlCharacters(colored)).toBe(await draw(SMALL, OPTIONS, BLOCKS));
  });

  it('shades large groups by nodes or equal parts of them', async () => {
    const rows = Array.from({ length: 32 }, (_, rank) => [[rank], [(rank + 8) % 32]]);
    expect(await draw(rows, { experts: 32, hidden: 512 }, PLAIN)).toMatchInlineSnapshot(`
      "bytes sent per link: darker is more; senders down, 4 ranks per cell
                                 sent to others      rows received
      r0-3          ##           ############ 1.00K  ############ 2
      r4-7            ##         ############ 1.00K  ############ 2
      r8-11             ##       ############ 1.00K  ############ 2
      r12-15              ##     ############ 1.00K  ############ 2
      r16-19                ##   ############ 1.00K  ############ 2
      r20-23                  ## ############ 1.00K  ############ 2
      r24-27    ##               ############ 1.00K  ############ 2
      r28-31      ##             ############ 1.00K  ############ 2
      experts   @@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@  at most 2 rows"
    `);
  });

  it.each([1, 2, 8, 9, 13, 24, 64, 96])('fits 80 columns and one screen with %i ranks', async (ranks) => {
    const routing = makeRouting({ family: 'hotRank', seed: 2, ranks, tokens: 30, topk: 4, experts: 288 });
    for (const style of [PLAIN, BLOCKS, COLORS]) {
      const text = await draw(routing, { experts: 288 }, style);
      const lines = stripVTControlCharacters(text).split('\n');
      expect(Math.max(...lines.map((line) => [...line].length))).toBeLessThanOrEqual(80);
      expect(lines.length).toBeLessThanOrEqual(15);
      expect(text).not.toMatch(/NaN|undefined|Infinity/);
      // ASCII means ASCII.
      if (style === PLAIN) expect(text).toMatch(/^[\x20-\x7e\n]*$/);
    }
  });

  it('draws a plan of nothing', async () => {
    const text = await draw([[], []], { experts: 2 }, BLOCKS);
    expect(text).not.toMatch(/█|NaN/);
  });
});

describe('styleOf', () => {
  const utf8 = { LANG: 'en_US.UTF-8', TERM: 'xterm-256color' };
  const isColored = (style: Style) => style.paint('far', 'x') !== 'x';

  it.each([
    ['a pipe', { isTTY: undefined }, utf8, false, false],
    ['a terminal', { isTTY: true }, utf8, true, true],
    ['NO_COLOR', { isTTY: true }, { ...utf8, NO_COLOR: '1' }, true, false],
    ['an empty NO_COLOR', { isTTY: true }, { ...utf8, NO_COLOR: '' }, true, true],
    ['a dumb terminal', { isTTY: true }, { ...utf8, TERM: 'dumb' }, false, false],
    ['the Linux console', { isTTY: true }, { ...utf8, TERM: 'linux' }, false, true],
    ['another locale', { isTTY: true }, { LANG: 'C' }, false, true],
    ['LC_ALL before LANG', { isTTY: true }, { ...utf8, LC_ALL: 'C' }, false, true],
  ])('%s', (_, stream, env, unicode, colored) => {
    const style = styleOf(stream, env);
    expect([style.unicode, isColored(style)]).toEqual([unicode, colored]);
  });
});

describe('glyphs', () => {
  it('tell nothing from little, and never pass the most', () => {
    expect([0, 1e-9, 25, 26, 50, 75, 100].map((value) => shade(value, 100, BLOCKS)).join('|')).toBe(
      ' |░|░|▒|▒|▓|█',
    );
    expect(bar(0, 10, 4, BLOCKS)).toBe('    ');
    expect(bar(1e-9, 10, 4, BLOCKS)).toBe('▏   ');
    expect(bar(5, 10, 4, BLOCKS)).toBe('██  ');
    expect(bar(10, 10, 4, BLOCKS)).toBe('████');
    expect(bar(1e-9, 10, 4, PLAIN)).toBe('#   ');
    expect(bar(3, 0, 4, PLAIN)).toBe('    ');
    expect(sparkline([0, 1, 2, 4, 8], 64, BLOCKS)).toBe(' ▁▂▄█');
    // The largest of every two.
    expect(sparkline([0, 8, 1, 0], 2, BLOCKS)).toBe('█▁');
  });
});
