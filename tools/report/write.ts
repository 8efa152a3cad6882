// Reports as the bytes of one file.

import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { FuscoError } from '../../planner/errors.ts';
import { type ReportAssets, type ReportInput, reportPage } from './page.ts';
import { type RecordingInput, recordingPage, type WhatIfInput, whatIfPage } from './recordingPages.ts';

/** A file that `npm run build:viewer` has made. Throws E_BACKEND if it has not. */
export async function viewerAsset(name: string): Promise<Uint8Array> {
  let file = `build/viewer/${name}`;
  try {
    file = createRequire(import.meta.url).resolve(`#viewer/${name}`);
    return await readFile(file);
  } catch (cause) {
    throw new FuscoError('E_BACKEND', `the viewer is not built: ${file}; run \`npm run build:viewer\``, {
      hint: 'Run `npm run build:viewer`.',
      cause,
    });
  }
}

/** A report: UTF-8 HTML that needs neither the network nor this program. Throws E_BACKEND. */
async function encodePage(page: (assets: ReportAssets) => string): Promise<Uint8Array> {
  const [style, script] = await Promise.all(['style.css', 'report.js'].map((name) => viewerAsset(name)));
  const decoder = new TextDecoder();
  return new TextEncoder().encode(page({ style: decoder.decode(style), script: decoder.decode(script) }));
}

/** The report of a plan. Throws E_BACKEND. */
export function encodeReport(input: ReportInput): Promise<Uint8Array> {
  return encodePage((assets) => reportPage(input, assets));
}

/** The report of a recording. Throws E_BACKEND. */
export function encodeRecording(input: RecordingInput): Promise<Uint8Array> {
  return encodePage((assets) => recordingPage(input, assets));
}

/** The report of a recording under several placements. Throws E_BACKEND. */
export function encodeWhatIf(input: WhatIfInput): Promise<Uint8Array> {
  return encodePage((assets) => whatIfPage(input, assets));
}
