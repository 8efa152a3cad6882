// The report: one HTML file that needs neither the network nor this program.

import type { FuscoError } from '../../planner/errors.ts';
import { sum } from '../../planner/totals.ts';
import { formatBytes, formatCount } from '../figures/format.ts';
import type { Figures } from '../figures/planFigures.ts';
import { html, Markup } from './markup.ts';
import { headline, type Panel, panelMarkup, panelsOf } from './panels.ts';

export interface ReportInput {
  /** The plan's file, as it was named. */
  readonly file: string;
  readonly planId: string;
  readonly producer: string;
  readonly version: readonly number[];
  readonly figures: Figures;
  /** The defects that verification found; empty for a valid plan. */
  readonly problems: readonly FuscoError[];
}

/** What the page is made of in addition to its figures: a style sheet and a script, both inlined. */
export interface ReportAssets {
  readonly style: string;
  readonly script: string;
}

/** The plan in plain words, for readers who have never seen one. */
function introduction({ summary, totalBytes, joined }: Figures): Markup {
  const { ranks, ranksPerNode, experts, topk, strategy } = summary;
  const tokens = sum(summary.tokens);
  const nodes = Math.ceil(ranks / joined);
  const where =
    nodes === 1 ? `${formatCount(ranks)} ranks on one node` : `${formatCount(ranks)} ranks on ${nodes} nodes`;
  const way =
    strategy === 'hier' && ranksPerNode === 1
      ? 'The plan sends a row once to each rank, which copies it to its other slots.'
      : strategy === 'hier'
        ? 'The plan is hierarchical: one copy of a token crosses to each other node, and a forwarder there distributes it.'
        : 'The plan is flat: every row goes straight from its token to its expert’s slot.';
  const inside = html`<strong>${formatBytes(totalBytes.intra)}</strong>`;
  const moved =
    nodes === 1
      ? html`One dispatch moves ${inside} between ranks.`
      : html`One dispatch moves <strong>${formatBytes(totalBytes.inter)}</strong> between nodes and ${inside} inside them.`;
  return html`<p class="intro">In this Mixture-of-Experts layer <strong>${formatCount(tokens)} tokens</strong> on ${where} choose up to ${topk} of ${formatCount(experts)} experts each. A <em>rank</em> is one GPU or process. <em>Dispatch</em> copies each token’s row to the ranks of its experts, <em>combine</em> brings the results back and adds them up. ${way} ${moved}</p>`;
}

function verification(problems: readonly FuscoError[]): Markup {
  if (problems.length === 0) {
    return html`<p class="verdict good"><span aria-hidden="true">✓</span> Verified: every descriptor is in bounds, every receive row is written exactly once, and every entry is delivered exactly once, masked or dropped.</p>`;
  }
  return html`<div class="verdict bad"><p><span aria-hidden="true">✗</span> Broken: verification found ${formatCount(problems.length)} ${problems.length === 1 ? 'defect' : 'defects'}. Do not execute this plan.</p><ul>${problems
    .slice(0, 50)
    .map(
      ({ code, message, hint }) => html`<li><code>${code}</code> ${message} <em>${hint}</em></li>`,
    )}</ul></div>`;
}

/** A page of panels as the text of an HTML file. */
export function panelPage(
  { title, header, lead, panels }: { title: string; header: Markup; lead: Markup; panels: readonly Panel[] },
  { style, script }: ReportAssets,
): string {
  const contents = panels.map(({ id, title }) => html`<li><a href="#panel-${id}">${title}</a></li>`);
  // A page that cannot load anything cannot send anything either. Images are drawings of the page itself.
  const policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<title>${title}</title>
<style>${new Markup(style)}</style>
</head>
<body class="report">
<a class="skip" href="#panels">Skip to the charts</a>
<header class="top">
${header}
</header>
<main>
${lead}
<nav aria-label="Contents"><ul class="contents">${contents}</ul></nav>
<p class="hint">Charts react to the pointer and to the keyboard: Tab reaches a chart, arrow keys move through it, and the line below describes the mark. A table below each chart contains its numbers.</p>
<div class="panels" id="panels">
${panels.map((panel) => panelMarkup(panel, []))}
</div>
</main>
<script>${new Markup(script)}</script>
</body>
</html>
`.text;
}

/** The whole report of a plan as the text of an HTML file. */
export function reportPage(input: ReportInput, assets: ReportAssets): string {
  const { file, planId, producer, version, figures, problems } = input;
  const header = html`<p class="kicker">FUSCO plan report</p>
<h1>${file}</h1>
<p class="id">plan <code>${planId}</code></p>
<p class="id">format ${version.join('.')}, written by ${producer}</p>
${introduction(figures)}
${verification(problems)}`;
  const title = `Plan ${planId.slice(0, 12)} – ${file}`;
  return panelPage({ title, header, lead: headline(figures), panels: panelsOf([figures]) }, assets);
}
