// The report as people read it: opened from the disk in a real browser, without any network.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { fusco, ROOT } from '../support/cli.ts';
import { type Browser, hasChromium, launch, WHY_SKIPPED } from './support.ts';

const REAL = join(ROOT, 'tools/demo/moe256-ep8x512-mixed-l3.idx.npy');

describe.skipIf(!hasChromium)(`the report in Chromium${WHY_SKIPPED}`, () => {
  let browser: Browser;
  let folder = '';
  let report = '';

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'fusco-report-'));
    const plan = join(folder, 'real.fusco');
    report = join(folder, 'real.html');
    const options = ['--experts', '256', '--strategy', 'hier', '--ranks-per-node', '4', '-o', plan];
    expect((await fusco('plan', REAL, ...options)).code).toBe(0);
    expect((await fusco('inspect', plan, '--html', report)).code).toBe(0);
    browser = await launch();
  });

  afterAll(async () => {
    await browser.close();
    rmSync(folder, { recursive: true });
  });

  afterEach(() => {
    expect(browser.takeErrors()).toEqual([]);
    expect(browser.takeRequests().filter((url) => !url.startsWith('file:'))).toEqual([]);
  });

  it('has every panel, with a table behind each chart', async () => {
    const page = await browser.open(pathToFileURL(report).href);
    const titles = await page.locator('main h2').allTextContents();
    expect(titles).toEqual([
      'What stands out',
      'Traffic between ranks',
      'Load of each rank',
      'Load of each expert',
      'Ranks per token',
      'Nodes per token',
      'Predicted dispatch, link by link',
      'Predicted combine, link by link',
      'Segment lengths',
      'Load of the rail groups',
      'Facts of the plan',
    ]);
    const charts = page.locator('figure.chart');
    for (let i = 0; i < (await charts.count()); i++) {
      const chart = charts.nth(i);
      expect(await chart.locator('.mark').count()).toBeGreaterThan(0);
      expect(await chart.locator('tbody tr').count()).toBeGreaterThan(0);
      expect(await chart.locator('.mark[tabindex="0"]').count()).toBe(1);
    }
    expect(await page.textContent('.verdict.good')).toContain('Verified');
    await page.close();
  });

  it('answers to the keyboard', async () => {
    const page = await browser.open(pathToFileURL(report).href);
    const panel = page.locator('#panel-ranks');
    await panel.locator('.mark').first().focus();
    await page.keyboard.press('End');
    expect(await panel.locator('.readout').textContent()).toBe('rank 7: 4,566 rows, 1.11 × the mean');
    await page.keyboard.press('ArrowLeft');
    expect(await panel.locator('.readout').textContent()).toMatch(/^rank 6: [\d,]+ rows/);
    await page.close();
  });

  it.each([
    [1280, 'light'],
    [1280, 'dark'],
    [360, 'light'],
  ] as const)(
    'at %d pixels, %s, nothing sticks out and no labels of an axis overlap',
    async (width, scheme) => {
      const page = await browser.open(pathToFileURL(report).href);
      await page.setViewportSize({ width, height: 900 });
      await page.emulateMedia({ colorScheme: scheme });
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
      const overlaps = await page.locator('figure.chart svg').evaluateAll((charts) =>
        charts.flatMap((chart) => {
          const texts = [...chart.querySelectorAll('text')].map((text) => ({
            text: text.textContent,
            box: text.getBoundingClientRect(),
          }));
          return texts.flatMap(({ text, box }, i) =>
            texts
              .slice(i + 1)
              .filter(
                ({ box: other }) =>
                  Math.min(box.right, other.right) - Math.max(box.left, other.left) > 1 &&
                  Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top) > 3,
              )
              .map((other) => `${text} / ${other.text}`),
          );
        }),
      );
      expect(overlaps).toEqual([]);
      const cut = await page.locator('figure.chart svg').evaluateAll((charts) =>
        charts.flatMap((chart) => {
          const frame = chart.getBoundingClientRect();
          return [...chart.querySelectorAll('text')]
            .filter((text) => {
              const { left, right } = text.getBoundingClientRect();
              return left < frame.left - 1 || right > frame.right + 1;
            })
            .map((text) => text.textContent);
        }),
      );
      expect(cut).toEqual([]);
      await page.close();
    },
  );
});
