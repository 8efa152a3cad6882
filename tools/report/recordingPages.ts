// The reports of a recording, of each routing and under several placements: one HTML file that needs no other file.

import { formatCount } from '../figures/format.ts';
import type { RecordedFigures } from '../figures/recorded.ts';
import type { WhatIf } from '../simulate/whatIf.ts';
import { html, NOTHING } from './markup.ts';
import { panelPage, type ReportAssets } from './page.ts';
import { recordingPanels, recordingSummary } from './recordingPanels.ts';
import { whatIfPanels } from './whatIfPanels.ts';

export interface WhatIfInput {
  /** The name of the recording. */
  readonly file: string;
  readonly topology: string;
  readonly found: WhatIf;
}

/** A recording, routing by routing. */
export interface RecordingInput {
  /** The name of the recording. */
  readonly file: string;
  readonly routings: readonly RecordedFigures[];
}

export function recordingPage({ file, routings }: RecordingInput, assets: ReportAssets): string {
  const header = html`<p class="kicker">FUSCO recording</p>
<h1>${file}</h1>
<p class="intro"><strong>${formatCount(routings.length)}</strong> ${routings.length === 1 ? 'routing' : 'routings'}, each planned separately. Times are predicted by a cost model; they are not measurements.</p>`;
  const [title, lead] = [`Recording – ${file}`, recordingSummary(routings)];
  return panelPage({ title, header, lead, panels: recordingPanels(routings) }, assets);
}

export function whatIfPage({ file, topology, found }: WhatIfInput, assets: ReportAssets): string {
  const { steps, placements } = found;
  const header = html`<p class="kicker">FUSCO placements</p>
<h1>${file}</h1>
<p class="intro"><strong>${formatCount(steps.length)}</strong> recorded ${steps.length === 1 ? 'step' : 'steps'} under <strong>${formatCount(placements.length)}</strong> placements of the experts, on ${topology}. Times are predicted by a cost model; they are not measurements.</p>`;
  const title = `Placements – ${file}`;
  return panelPage({ title, header, lead: NOTHING, panels: whatIfPanels(found) }, assets);
}
