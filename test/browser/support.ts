// A headless Chromium, a served page, and files to drop on it.

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BrowserContext, chromium, type Page } from 'playwright-core';

const CHROMIUM = '/usr/bin/chromium';
export const hasChromium = existsSync(CHROMIUM);
/** Ends the title of a suite that is skipped, so that the report of the tests says why. */
export const WHY_SKIPPED = hasChromium ? '' : ` (skipped: no ${CHROMIUM}; apt-get install chromium)`;

const ARGUMENTS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export interface Browser {
  /** A page that is closed with its browser. */
  open(url: string): Promise<Page>;
  /** Errors that pages wrote to their consoles or threw, since the last call. */
  takeErrors(): string[];
  /** Addresses that pages asked for, since the last call. */
  takeRequests(): string[];
  close(): Promise<void>;
}

/** Starts a browser with an empty profile. */
export async function launch(): Promise<Browser> {
  const profile = mkdtempSync(join(tmpdir(), 'fusco-chromium-'));
  const context: BrowserContext = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    args: ARGUMENTS,
    viewport: { width: 1280, height: 900 },
    acceptDownloads: true,
  });
  let errors: string[] = [];
  let requests: string[] = [];
  const take = (what: 'errors' | 'requests') => {
    const taken = what === 'errors' ? errors : requests;
    if (what === 'errors') errors = [];
    else requests = [];
    return taken;
  };
  return {
    async open(url) {
      const page = await context.newPage();
      page.on('console', (message) => {
        if (message.type() === 'error' || message.type() === 'warning') errors.push(message.text());
      });
      page.on('pageerror', (error) => errors.push(String(error)));
      page.on('request', (request) => requests.push(request.url()));
      await page.goto(url);
      return page;
    },
    takeErrors: () => take('errors'),
    takeRequests: () => take('requests'),
    async close() {
      await context.close();
      rmSync(profile, { recursive: true, force: true });
    },
  };
}

/** Drops files on an element, as a file manager would. */
export async function dropFiles(
  page: Page,
  selector: string,
  files: readonly { name: string; bytes: Uint8Array }[],
): Promise<void> {
  const encoded = files.map(({ name, bytes }) => ({ name, text: Buffer.from(bytes).toString('base64') }));
  const transfer = await page.evaluateHandle((list) => {
    const data = new DataTransfer();
    for (const { name, text } of list) {
      const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
      data.items.add(new File([bytes], name));
    }
    return data;
  }, encoded);
  await page.dispatchEvent(selector, 'dragover', { dataTransfer: transfer });
  await page.dispatchEvent(selector, 'drop', { dataTransfer: transfer });
}

export function fileOf(path: string, name: string): { name: string; bytes: Uint8Array } {
  return { name, bytes: new Uint8Array(readFileSync(path)) };
}

/** Texts of a page, outside of drawings, with less contrast to what is behind them than 4.5 to 1. */
export function lowContrasts(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const parts = (color: string) => (color.match(/[\d.]+/g) ?? []).map(Number);
    const luminance = (rgb: number[]) => {
      const [r, g, b] = rgb.map((n) =>
        n <= 10.31475 ? n / 255 / 12.92 : ((n / 255 + 0.055) / 1.055) ** 2.4,
      );
      return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
    };
    const behind = (element: Element | null): number[] => {
      if (element === null) return [255, 255, 255];
      const [r = 0, g = 0, b = 0, alpha = 1] = parts(getComputedStyle(element).backgroundColor);
      return alpha === 1 ? [r, g, b] : behind(element.parentElement);
    };
    const found: string[] = [];
    for (const element of document.querySelectorAll('body *:not(svg *):not(script):not(style)')) {
      const text = [...element.childNodes]
        .filter((node) => node.nodeType === 3)
        .map((node) => node.textContent);
      if (text.join('').trim() === '' || !element.checkVisibility()) continue;
      const [one, other] = [parts(getComputedStyle(element).color).slice(0, 3), behind(element)].map(
        luminance,
      );
      const ratio = (Math.max(one!, other!) + 0.05) / (Math.min(one!, other!) + 0.05);
      if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${text.join('').trim().slice(0, 40)}`);
    }
    return found;
  });
}

/** What a printed page would lack: panels that are not drawn, and parts that are cut off by scrolling. */
export async function cutInPrint(page: Page): Promise<string[]> {
  await page.emulateMedia({ media: 'print' });
  const found = await page.evaluate(() => {
    const hidden = [...document.querySelectorAll('.panel')]
      .filter((panel) => getComputedStyle(panel).contentVisibility !== 'visible')
      .map((panel) => `${panel.id} is not drawn`);
    const cut = [...document.querySelectorAll('.scroll')]
      .filter((box) => box.checkVisibility() && box.scrollHeight > box.clientHeight + 1)
      .map((box) => `${box.closest('.panel')?.id}: a table is cut off`);
    return [...hidden, ...cut];
  });
  await page.emulateMedia({ media: 'screen' });
  return found;
}
