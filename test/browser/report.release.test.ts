// The report as people read it: opened from the disk in a real browser, without any network.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { fusco, ROOT } from '../support/cli.ts';
import { type Browser, cutInPrint, hasChromium, launch, lowContrasts, WHY_SKIPPED } from './support.ts';

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
      'Ways to exchange these tokens',
      'What stands out',
      'Traffic between ranks',
      'Load of each rank',
      'Memory of each rank',
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

  it('says which way to exchange is fastest, and what would help', async () => {
    const page = await browser.open(pathToFileURL(report).href);
    const panel = page.locator('#panel-strategies');
    const names = await panel.locator('tbody th').allTextContents();
    expect(names.filter((name) => name.includes('fastest'))).toHaveLength(1);
    expect(names.some((name) => name.includes('(this plan)'))).toBe(true);
    expect(await panel.locator('.advice').textContent()).toMatch(/^Bound by the .* would take .* less/);
    expect(await panel.textContent()).toContain('A model, not a measurement');
    await page.close();
  });

  it('sorts and zooms its bars, and saves their numbers', async () => {
    const page = await browser.open(pathToFileURL(report).href);
    const panel = page.locator('#panel-experts');
    const heights = () =>
      panel
        .locator('.mark')
        .evaluateAll((marks) => marks.map((mark) => Number((mark as SVGElement).dataset.value)));
    const own = await heights();
    await panel.getByRole('button', { name: 'Sort by value' }).click();
    const sorted = await heights();
    expect(sorted).toEqual([...own].sort((a, b) => b - a));
    const lefts = await panel
      .locator('.mark .hit')
      .evaluateAll((bars) => bars.map((bar) => bar.getBoundingClientRect().left));
    expect(lefts).toEqual([...lefts].sort((a, b) => a - b));
    await panel.getByRole('button', { name: 'Sort by value' }).click();
    expect(await heights()).toEqual(own);

    const width = () => panel.locator('svg').evaluate((svg) => svg.getBoundingClientRect().width);
    const before = await width();
    await panel.getByRole('button', { name: 'Zoom in' }).click();
    expect((await width()) / before).toBeCloseTo(2, 1);
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(1280);

    const [download] = await Promise.all([
      page.waitForEvent('download'),
      panel.getByRole('button', { name: 'Save as CSV' }).click(),
    ]);
    expect(download.suggestedFilename()).toBe('rows-received-by-each-expert.csv');
    const lines = readFileSync(await download.path(), 'utf8')
      .trimEnd()
      .split('\r\n');
    expect(lines).toHaveLength(1 + own.length);
    expect(lines[1]).toMatch(/^expert 0,"?[\d,]+ rows/);
    await page.close();
  });

  it('saves a chart as an image that needs no style sheet', async () => {
    const page = await browser.open(pathToFileURL(report).href);
    await page.emulateMedia({ colorScheme: 'dark' });
    const panel = page.locator('#panel-ranks');
    const saved = async (name: string) => {
      const [download] = await Promise.all([
        page.waitForEvent('download'),
        panel.getByRole('button', { name }).click(),
      ]);
      return { name: download.suggestedFilename(), bytes: readFileSync(await download.path()) };
    };
    const svg = await saved('Save as SVG');
    expect(svg.name).toBe('rows-received-by-each-rank.svg');
    const text = svg.bytes.toString();
    expect(text).not.toMatch(/var\(|light-dark/);
    const color = (selector: string) =>
      panel.locator(selector).evaluate((bar) => getComputedStyle(bar).getPropertyValue('fill'));
    expect(text).toContain(`fill="${await color('.hot')}"`);
    const png = await saved('Save as PNG');
    expect(png.name).toBe('rows-received-by-each-rank.png');
    const size = await panel.locator('svg').evaluate((one) => (one as SVGSVGElement).viewBox.baseVal.width);
    expect([png.bytes.toString('latin1', 1, 4), png.bytes.readUInt32BE(16)]).toEqual(['PNG', 2 * size]);
    // What was drawn is neither empty nor only the background.
    expect(png.bytes.length).toBeGreaterThan(5000);
    await page.close();
  });

  it('prints whole, and its text can be read in both schemes', async () => {
    const page = await browser.open(pathToFileURL(report).href);
    for (const details of await page.locator('details').all())
      await details.evaluate((each) => each.setAttribute('open', ''));
    expect(await cutInPrint(page)).toEqual([]);
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      expect(await lowContrasts(page)).toEqual([]);
    }
    await page.close();
  });

  it.each(['light', 'dark'] as const)(
    'has text of enough contrast in every cell of the matrix, %s',
    async (scheme) => {
      const page = await browser.open(pathToFileURL(report).href);
      await page.emulateMedia({ colorScheme: scheme });
      const ratios = await page.locator('#panel-traffic .mark:has(text)').evaluateAll((marks) => {
        const surface = getComputedStyle(document.querySelector('.panel')!).backgroundColor;
        const parts = (color: string) =>
          color
            .match(/[\d.]+/g)!
            .slice(0, 3)
            .map(Number);
        const luminance = (rgb: number[]) => {
          const [r, g, b] = rgb.map((n) =>
            n / 255 <= 0.04045 ? n / 255 / 12.92 : ((n / 255 + 0.055) / 1.055) ** 2.4,
          );
          return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
        };
        return marks.map((mark) => {
          const box = mark.querySelector('rect')!;
          const [fill, page] = [parts(getComputedStyle(box).fill), parts(surface)];
          const opacity = Number(box.getAttribute('fill-opacity'));
          const behind = luminance(fill.map((n, i) => opacity * n + (1 - opacity) * page[i]!));
          const text = luminance(parts(getComputedStyle(mark.querySelector('text')!).fill));
          return (Math.max(behind, text) + 0.05) / (Math.min(behind, text) + 0.05);
        });
      });
      expect(ratios.length).toBeGreaterThan(30);
      expect(Math.min(...ratios)).toBeGreaterThanOrEqual(4.5);
      await page.close();
    },
  );

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
    [2560, 'dark'],
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
