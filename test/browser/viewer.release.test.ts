// The viewer as people use it: a real browser, the served page, the mouse and the keyboard.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { encodePlan, type VerifiedPlan } from '../../planner/index.ts';
import { loadPlanner, nodeSha256 } from '../../planner/node.ts';
import { encodeNpy } from '../../tools/readers/npy.ts';
import { readRouting } from '../../tools/readers/numpyRouting.ts';
import { randomFrom } from '../support/workloads.ts';
import {
  type Browser,
  cutInPrint,
  dropFiles,
  fileOf,
  hasChromium,
  launch,
  lowContrasts,
  WHY_SKIPPED,
} from './support.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const REAL = `${ROOT}tools/demo/moe256-ep8x512-mixed-l3.idx.npy`;
const GOLDENS = JSON.parse(readFileSync(`${ROOT}test/planner/golden-plan-ids.json`, 'utf8'));

/** 8 x 4096 tokens, top-8 of 256 experts, different in each token. */
function largeTable(): Uint8Array {
  const random = randomFrom(11);
  const ids = new Int16Array(8 * 4096 * 8);
  for (let token = 0; token < 8 * 4096; token++) {
    const start = Math.floor(random() * 256);
    for (let k = 0; k < 8; k++) ids[token * 8 + k] = (start + k * (1 + 2 * (token % 16))) % 256;
  }
  return Buffer.concat(encodeNpy('i16', [8, 4096, 8], ids));
}

/** The id of the plan that a side shows, once it differs from `before`. */
async function planIdOf(page: Page, side = 0, before = ''): Promise<string> {
  const handle = await page.waitForFunction(
    ([index, old]) => {
      const found = document.querySelectorAll<HTMLElement>('.headline')[index]?.dataset.planId;
      return found !== undefined && found !== old ? found : false;
    },
    [side, before] as const,
  );
  return (await handle.jsonValue()) as string;
}

/** A viewer with these arguments, and the address that it prints. */
async function startView(...args: string[]): Promise<{ child: ChildProcess; address: string }> {
  const child = spawn(process.execPath, [`${ROOT}tools/fusco.js`, 'view', ...args], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const address = await new Promise<string>((resolve) =>
    child.stdout!.once('data', (text) => resolve(String(text).trim())),
  );
  return { child, address };
}

describe.skipIf(!hasChromium)(`the viewer in Chromium${WHY_SKIPPED}`, () => {
  let browser: Browser;
  let server: ChildProcess;
  let url = '';

  beforeAll(async () => {
    const [launched, started] = await Promise.all([launch(), startView()]);
    [browser, server, url] = [launched, started.child, started.address];
  });

  afterAll(async () => {
    await browser.close();
    const ended = new Promise((resolve) => server.once('exit', (code) => resolve(code)));
    server.kill('SIGINT');
    expect(await ended).toBe(130);
  });

  afterEach(() => {
    expect(browser.takeErrors()).toEqual([]);
    const foreign = browser
      .takeRequests()
      .filter((address) => !/^(http:\/\/127\.0\.0\.1|data:|blob:)/.test(address));
    expect(foreign).toEqual([]);
  });

  it('plans a dropped table, and computes the plan ids that Node computes', async () => {
    const page = await browser.open(url);
    await dropFiles(page, '#welcome', [fileOf(REAL, 'real.npy')]);
    const first = await planIdOf(page);
    expect(first).toBe(GOLDENS['real, defaults']);
    expect(await page.textContent('#form-a .source')).toContain('real.npy: routing, 4,096 tokens, top-8');

    await page.fill('#a-align', '16');
    await page.fill('#a-capacity', '40');
    await page.selectOption('#a-ranksPerNode', '4');
    await page.waitForSelector(
      `.headline[data-plan-id="${GOLDENS['real, align 16, capacity 40, 4 ranks a node']}"]`,
    );

    const replicas = Array.from({ length: 256 }, (_, expert) => {
      const home = Math.floor(expert / 32);
      return expert % 8 === 0 ? [home, (home + 4) % 8] : home;
    });
    await page.selectOption('#a-strategy', 'hier');
    await page.selectOption('#a-ranksPerNode', '2');
    await page.selectOption('#a-partial', 'f32');
    await page.fill('#a-align', '4');
    await page.fill('#a-capacity', '60');
    await page.selectOption('#a-placement', 'map');
    await page.fill('#a-map', JSON.stringify(replicas));
    const golden = GOLDENS['real, hierarchical, 2 ranks a node, capacity 60, replicas'];
    await page.waitForSelector(`.headline[data-plan-id="${golden}"]`);
    await page.close();
  });

  it('plans 8 x 4096 tokens in a worker, and says how long it took', async () => {
    const page = await browser.open(url);
    await dropFiles(page, '#welcome', [{ name: 'large.npy', bytes: largeTable() }]);
    const first = await planIdOf(page);
    await page.selectOption('#a-strategy', 'hier');
    await page.selectOption('#a-ranksPerNode', '4');
    await planIdOf(page, 0, first);
    expect(page.workers()).toHaveLength(1);
    expect(Number(await page.getAttribute('.headline', 'data-plan-ms'))).toBeGreaterThan(0);
    expect(await page.textContent('#status')).toMatch(
      /Planned 32,768 tokens on 8 ranks in [\d.]+ ms \(plan id [\d.]+ ms, charts counted in [\d.]+ ms\)/,
    );
    await page.close();
  });

  it('shows what is wrong with an option, keeps the old plan dimmed, and recovers', async () => {
    const page = await browser.open(url);
    await page.click('#example');
    const before = await planIdOf(page);
    await page.fill('#a-experts', '12');
    await page.waitForSelector('#form-a .problem:not([hidden])');
    expect(await page.textContent('#form-a .problem')).toMatch(/E_ROUTING_ID rank 0 token 0 k \d: expert/);
    expect(await page.getAttribute('#plans', 'class')).toBe('stale');
    await page.selectOption('#a-placement', 'map');
    await page.fill('#a-map', '[0, 1');
    await expect.poll(() => page.textContent('#form-a .problem')).toMatch(/JSON/);
    await page.selectOption('#a-placement', 'blocks');
    await page.fill('#a-experts', '256');
    await page.waitForSelector('#form-a .problem', { state: 'hidden' });
    expect(await planIdOf(page)).toBe(before);
    expect(await page.getAttribute('#plans', 'class')).toBe('');

    await dropFiles(page, '#results', [{ name: '<b>x</b>.npy', bytes: new Uint8Array([1, 2, 3]) }]);
    await expect.poll(() => page.textContent('#form-a .problem')).toContain('<b>x</b>.npy: not a .npy file');
    await page.close();
  });

  it('compares two plans of one table side by side on common scales', async () => {
    const page = await browser.open(url);
    await page.click('#example');
    const a = await planIdOf(page);
    await page.check('#compare');
    expect(await planIdOf(page, 1)).toBe(a);
    await page.selectOption('#b-strategy', 'hier');
    await page.selectOption('#b-ranksPerNode', '2');
    await expect.poll(() => planIdOf(page, 1)).not.toBe(a);
    expect(await planIdOf(page, 0)).toBe(a);
    for (const panel of ['traffic', 'ranks', 'experts', 'dispatch', 'segments']) {
      expect(await page.locator(`#panel-${panel} .side`).count()).toBe(2);
    }
    const ends = await page
      .locator('#panel-dispatch svg')
      .evaluateAll((charts) =>
        charts.map((chart) => [...chart.querySelectorAll('.tick.middle')].at(-1)?.textContent),
      );
    expect(ends[0]).toBe(ends[1]);
    for (const width of [1280, 360]) {
      await page.setViewportSize({ width, height: 800 });
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
    }
    await page.uncheck('#compare');
    await expect.poll(() => page.locator('.headline').count()).toBe(1);
    await page.close();
  });

  it('says what is different between two plans, and keeps both in its address', async () => {
    const page = await browser.open(url);
    await page.click('#example');
    await page.check('#compare');
    await page.selectOption('#b-strategy', 'hier');
    await page.selectOption('#b-ranksPerNode', '1');
    const panel = page.locator('#panel-differences');
    await expect
      .poll(() => panel.locator('.advice').textContent())
      .toMatch(/^strategy flat -> once per rank; .*predicted .* \(-[\d.]+ %\): better$/);
    const rows = panel.locator('tbody tr');
    await expect
      .poll(() => rows.allTextContents())
      .toEqual(expect.arrayContaining(['option strategyflathierchanged']));
    await expect.poll(() => page.locator('#panel-strategies .side').count()).toBe(2);
    expect(await cutInPrint(page)).toEqual([]);
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      expect(await lowContrasts(page)).toEqual([]);
    }
    // What stands out is one table, a line for each kind.
    expect(await page.locator('#panel-offenders table').count()).toBe(1);
    const ids = [await planIdOf(page, 0), await planIdOf(page, 1)];
    const again = await browser.open(page.url());
    await again.locator('.headline').nth(1).waitFor();
    expect([await planIdOf(again, 0), await planIdOf(again, 1)]).toEqual(ids);
    expect(await again.inputValue('#b-strategy')).toBe('hier');
    await again.close();
    await page.close();
  });

  it('packs experts by load with replicas, and says what that changes', async () => {
    const page = await browser.open(url);
    await page.click('#example');
    await page.check('#compare');
    await page.locator('.headline').nth(1).waitFor();
    expect(await page.isDisabled('#b-extra')).toBe(true);
    await page.selectOption('#b-placement', 'packed');
    await page.fill('#b-extra', '2');
    await page.selectOption('#b-replicas', 'quota-1');
    const advice = page.locator('#panel-differences .advice');
    await expect.poll(() => advice.textContent(), { timeout: 15_000 }).toMatch(/predicted .* -> /);
    // Each option that changes plans the routing again: the panel says what the last plan changed only in the end.
    const rows = page.locator('#panel-differences tbody tr');
    await expect
      .poll(() => rows.allTextContents(), { timeout: 15_000 })
      .toEqual(expect.arrayContaining(['option extra02changed', 'option placementblockspackedchanged']));
    await page.close();
  });

  it('folds the options of a narrow page, so that results are near its top', async () => {
    const page = await browser.open(url);
    await page.setViewportSize({ width: 420, height: 900 });
    await page.click('#example');
    const headline = page.locator('.headline');
    await headline.waitFor();
    expect(await page.isVisible('#a-strategy')).toBe(false);
    // Later results replace the headline, which has no box at that moment.
    await expect.poll(async () => (await headline.boundingBox())?.y).toBeLessThan(600);
    await page.click('#form-a summary');
    expect(await page.isVisible('#a-strategy')).toBe(true);
    await page.close();
  });

  it('shows what is behind an expert and a cell, and saves the report', async () => {
    const page = await browser.open(url);
    await page.click('#example');
    await planIdOf(page);
    await page.locator('#panel-strategies .advice').waitFor();
    await page.locator('#panel-experts .mark').nth(40).click();
    const detail = page.locator('#panel-experts .detail');
    await expect.poll(() => detail.textContent()).toMatch(/^Expert 40 on rank 1: where its rows come from/);
    // Its sources add up to the rows of its bar.
    const bar = await page.locator('#panel-experts .mark').nth(40).getAttribute('data-value');
    const parts = (await detail.locator('li').allTextContents()).flatMap(
      (line) => /^rank \d: (\d+) rows?$/.exec(line)?.[1] ?? [],
    );
    expect(parts.map(Number).reduce((sum, n) => sum + n, 0)).toBe(Number(bar));
    await page.locator('#panel-ranks .mark').nth(2).click();
    await expect
      .poll(() => page.locator('#panel-ranks .detail').textContent())
      .toMatch(/^Rank 2: which experts its rows are for, and where they come from/);
    await page.locator('#panel-traffic .mark').nth(1).focus();
    await page.keyboard.press('Enter');
    await expect
      .poll(() => page.locator('#panel-traffic .detail').textContent())
      .toMatch(/^Tokens of rank 0 whose experts are on rank 1/);
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#form-a .save-report')]);
    const report = readFileSync(await download.path(), 'utf8');
    expect(report).toMatch(/^<!doctype html>/);
    expect(report).toContain('Ways to exchange these tokens');
    await page.close();
  });

  it('starts with the options of the command line', async () => {
    const { child, address } = await startView(REAL, '--strategy', 'hier', '--ranks-per-node', '2');
    try {
      const page = await browser.open(address);
      await planIdOf(page);
      expect(await page.inputValue('#a-strategy')).toBe('hier');
      expect(await page.inputValue('#a-ranksPerNode')).toBe('2');
      await page.close();
    } finally {
      child.kill('SIGINT');
    }
  });

  it('draws a recording over time, and opens a routing of it', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fusco-trace-'));
    const lines = [0, 1].flatMap((step) =>
      [3, 4].map((layer) => {
        const ids = Array.from({ length: 8 }, (_, i) => [layer === 3 ? i : i % 2]);
        return JSON.stringify({ step, layer, rank: 0, num_tokens: 8, topk: 1, top_indices: ids });
      }),
    );
    writeFileSync(join(folder, 'router_trace_rank0.jsonl'), lines.join('\n'));
    const { child, address } = await startView(folder, '--layers', '3-4', '--ranks', '2', '--experts', '8');
    try {
      const page = await browser.open(address);
      const first = await planIdOf(page);
      const bars = page.locator('#recording figure').first().locator('.mark');
      expect(await bars.evaluateAll((marks) => marks.map((mark) => mark.getAttribute('aria-label')))).toEqual(
        [
          'step 0, layer 3: 1.000 ×',
          'step 0, layer 4: 2.000 ×',
          'step 1, layer 3: 1.000 ×',
          'step 1, layer 4: 2.000 ×',
        ],
      );
      await bars.nth(1).click();
      await planIdOf(page, 0, first);
      expect(await page.textContent('#form-a .source')).toContain('routing 1 of the recording');
      await page.close();
    } finally {
      child.kill('SIGINT');
      rmSync(folder, { recursive: true });
    }
  });

  it('opens a plan, says that it is the plan in the file, and saves the same bytes', async () => {
    const planner = await loadPlanner();
    const options = {
      ranks: 8,
      experts: 256,
      strategy: 'hier',
      ranksPerNode: 2,
      sliceBytes: 50_000,
    } as const;
    const plan: VerifiedPlan = planner.planAll(await readRouting(REAL), options);
    const { bytes, planId } = await encodePlan(plan, nodeSha256);
    const page = await browser.open(url);
    await dropFiles(page, '#welcome', [{ name: 'real.fusco', bytes }]);
    expect(await planIdOf(page)).toBe(planId);
    expect(await page.textContent('.headline')).toContain('the plan in the file, made again');
    expect(await page.inputValue('#a-strategy')).toBe('hier');
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#form-a .save')]);
    expect(Buffer.compare(readFileSync(await download.path()), bytes)).toBe(0);
    const exchange = { nanoseconds: 1_500_000 };
    const run = (of: string) => ({
      name: 'run.json',
      bytes: Buffer.from(
        JSON.stringify({ planId: of, backend: 'host', dispatch: exchange, combine: exchange }),
      ),
    });
    await dropFiles(page, '#results', [run(planId)]);
    const measured = page.locator('#panel-strategies tr', { hasText: 'measured, host backend' });
    await measured.waitFor();
    expect(await measured.textContent()).toMatch(/1\.50 ms1\.50 ms3\.00 ms[\d.]+ × the model$/);
    await dropFiles(page, '#results', [run('f'.repeat(64))]);
    await expect
      .poll(() => page.locator('#form-a .problem').textContent())
      .toMatch(/a run of plan f{12}, which is not on the page/);
    await page.selectOption('#a-balance', 'rotate');
    await planIdOf(page, 0, planId);
    expect(await measured.count()).toBe(0);
    expect(await page.textContent('.headline')).toContain('differs from the plan in the file');
    await page.close();
  });

  it('opens two files side by side, and rank files as one routing', async () => {
    const page = await browser.open(url);
    const table = (id: number) => Buffer.concat(encodeNpy('i32', [2, 2], Int32Array.of(id, -1, id + 1, 0)));
    await dropFiles(page, '#welcome', [
      { name: 'rank1.npy', bytes: table(3) },
      { name: 'rank0.npy', bytes: table(1) },
      fileOf(REAL, 'real.npy'),
    ]);
    await planIdOf(page, 1);
    expect(await page.textContent('#form-a .source')).toBe('2 files: routing, 4 tokens, top-2');
    expect(await page.textContent('#form-b .source')).toContain('real.npy');
    expect(await page.isChecked('#compare')).toBe(true);
    await page.close();
  });

  it('shows a recording under several placements', async () => {
    const page = await browser.open(url);
    const step = { rankMaxOverMean: 2, intraNodeBytes: 10, interNodeBytes: 20, us: 30 };
    const placement = (name: string) => ({ name, replicas: 0, steps: [step, step], overall: step });
    const result = { steps: [0, 1], tokens: [4, 4], placements: [placement('blocks'), placement('<b>')] };
    await dropFiles(page, '#welcome', [
      { name: 'result.json', bytes: new TextEncoder().encode(JSON.stringify(result)) },
    ]);
    await page.waitForSelector('#panel-imbalance .legend');
    expect(await page.locator('#placements .line').count()).toBe(6);
    expect(await page.textContent('#panel-imbalance .legend')).toBe('blocks<b>');
    await page.focus('#panel-imbalance .mark');
    await page.keyboard.press('ArrowDown');
    expect(await page.textContent('#panel-imbalance .readout')).toBe('step 0, <b>: 2.00 ×');

    await dropFiles(page, '#placements', [fileOf(REAL, 'real.npy')]);
    await planIdOf(page);
    expect(await page.isVisible('#placements')).toBe(false);
    await page.close();
  });

  it('follows a token from its row through its forwarder to its slots and back', async () => {
    const page = await browser.open(url);
    await page.click('#example');
    const flat = await planIdOf(page);
    await page.selectOption('#a-strategy', 'hier');
    await page.selectOption('#a-ranksPerNode', '4');
    await planIdOf(page, 0, flat);
    await page.fill('#token-rank', '3');
    await page.fill('#token-token', '17');
    const labels = () =>
      page
        .locator('#token-path .mark')
        .evaluateAll((marks) => marks.map((m) => m.getAttribute('aria-label')!));
    await expect
      .poll(async () => (await labels())[0])
      .toBe('token 17 starts on rank 3, node 0, as a row of 14.0 KiB');
    // The committed routing, read without the code under test.
    const ids = new Int16Array(readFileSync(REAL).buffer.slice(-8 * 512 * 8 * 2)).subarray(
      (3 * 512 + 17) * 8,
    );
    const shown = await labels();
    for (let k = 0; k < 8; k++) {
      const owner = Math.floor(ids[k]! / 32);
      expect(shown.filter((label) => label.startsWith(`k ${k}: expert ${ids[k]}, `))).toEqual([
        expect.stringMatching(new RegExp(`of rank ${owner}$`)),
      ]);
    }
    const remote = [...ids.subarray(0, 8)].filter((id) => id >= 128).length;
    expect(remote).toBeGreaterThan(0);
    expect(shown.filter((label) => label.startsWith('forwarder of node 1: rank '))).toHaveLength(1);
    expect(shown.find((label) => label.startsWith('partial sum of node 1'))).toMatch(/rounded to bf16/);
    expect(shown.at(-1)).toBe('back on rank 3: the weighted rows are added in ascending node');

    await page.fill('#token-token', '511');
    await page.click('#token-next');
    expect(await page.inputValue('#token-rank')).toBe('4');
    await expect.poll(async () => (await labels())[0]).toMatch(/^token 0 starts on rank 4/);
    await page.close();
  });

  it('can be used with the keyboard alone', async () => {
    const page = await browser.open(url);
    const focused = () => page.evaluate(() => document.activeElement?.id ?? '');
    const tabTo = async (id: string) => {
      for (let i = 0; i < 60 && (await focused()) !== id; i++) await page.keyboard.press('Tab');
      expect(await focused()).toBe(id);
    };
    await tabTo('example');
    await page.keyboard.press('Enter');
    const flat = await planIdOf(page);
    await tabTo('compare');
    await tabTo('a-strategy');
    await page.keyboard.press('h');
    const hier = await planIdOf(page, 0, flat);
    expect(await page.inputValue('#a-strategy')).toBe('hier');
    expect(hier).not.toBe(flat);
    await tabTo('token-next');
    await page.keyboard.press('Space');
    await expect.poll(() => page.inputValue('#token-token')).toBe('1');

    // Into the heat map: Tab reaches one mark of each chart, arrow keys move in two dimensions.
    const heat = page.locator('#panel-traffic');
    const inHeat = () =>
      page.evaluate(() => document.activeElement?.closest('section')?.id === 'panel-traffic');
    for (let i = 0; i < 20 && !(await inHeat()); i++) await page.keyboard.press('Tab');
    await page.keyboard.press('ArrowRight');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('ArrowDown');
    expect(await heat.locator('.readout').textContent()).toMatch(
      /^rank 2 to rank 1: [\d.]+ MiB, within a node$/,
    );
    // Past the tools of the chart.
    const onSummary = () => page.evaluate(() => document.activeElement?.tagName === 'SUMMARY');
    for (let i = 0; i < 6 && !(await onSummary()); i++) await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    // Eight ranks, and the sums.
    expect(await heat.locator('table tbody tr').count()).toBe(9);
    expect(await heat.locator('details').getAttribute('open')).toBe('');
    await page.close();
  });
});
