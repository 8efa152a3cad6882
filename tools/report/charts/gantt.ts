// The predicted timeline: a track per rank and link, a bar per stage.

import { formatUs as formatPlainUs } from '../../figures/format.ts';
import { type Busy, LINK_NAMES, type Timeline } from '../../figures/prediction.ts';
import { html, type Markup, table } from '../markup.ts';
import { at, axis, figure, mark } from './frame.ts';

const MARGIN = { top: 26, right: 28, bottom: 40, left: 104 };
const TRACK = 15;
const RANK_GAP = 5;
const CLASSES: Readonly<Record<string, string>> = { nic: 'far', nvlink: 'near' };

/** Microseconds as text. */
export function formatUs(us: number): string {
  return formatPlainUs(us).replace(' us', ' µs');
}

interface Track {
  readonly rank: number;
  readonly resource: Busy['resource'];
  readonly top: number;
}

/** Tracks from top to bottom: all links of a rank together. */
function layTracks({ ranks, busy }: Timeline): { tracks: Track[]; end: number } {
  const tracks: Track[] = [];
  let top = MARGIN.top;
  for (const rank of ranks) {
    for (const resource of ['nic', 'nvlink', 'hbm', 'permute'] as const) {
      if (!busy.some((bar) => bar.rank === rank && bar.resource === resource)) continue;
      tracks.push({ rank, resource, top });
      top += TRACK;
    }
    top += RANK_GAP;
  }
  return { tracks, end: top };
}

/** The timeline of one exchange; `maxUs` is the end of the axis, so that two can be compared. */
export function ganttChart(title: string, timeline: Timeline, maxUs: number, width: number): Markup {
  const { tracks, end } = layTracks(timeline);
  const x = axis(maxUs, MARGIN.left, width - MARGIN.right, 4);
  const grid = x.ticks.map(
    (tick) =>
      html`<line class="grid" x1="${at(x.scale(tick))}" x2="${at(x.scale(tick))}" y1="${MARGIN.top - 4}" y2="${end}"/><text class="tick middle" x="${at(x.scale(tick))}" y="${end + 14}">${tick === 0 ? '0' : formatUs(tick)}</text>`,
  );
  const labels = tracks.map(
    ({ rank, resource, top }) =>
      html`<text class="tick end" x="${MARGIN.left - 8}" y="${top + TRACK / 2}" dy="0.32em">rank ${rank} ${LINK_NAMES[resource]}</text>`,
  );
  const bars: Markup[] = [];
  for (const { rank, resource, top } of tracks) {
    for (const bar of timeline.busy.filter((b) => b.rank === rank && b.resource === resource)) {
      const label = `rank ${rank}, ${LINK_NAMES[resource]}, ${bar.stage}: busy for ${formatUs(bar.us)} from ${formatUs(bar.startUs)}`;
      const length = Math.max(0.75, x.scale(bar.us) - x.scale(0));
      bars.push(
        html`<rect class="mark ${CLASSES[resource] ?? 'own'} solid" ${mark(label, bars.length === 0)} x="${at(x.scale(bar.startUs))}" width="${at(length)}" y="${top + 1.5}" height="${TRACK - 3}"/>`,
      );
    }
  }
  const finish = at(x.scale(timeline.us));
  const body = html`${grid}${labels}${bars}<line class="mean" x1="${finish}" x2="${finish}" y1="${MARGIN.top - 4}" y2="${end}"/><text class="mean-label end" x="${width - MARGIN.right}" y="14">dashed line: done at ${formatUs(timeline.us)}</text><text class="axis-title middle" x="${(MARGIN.left + width - MARGIN.right) / 2}" y="${end + 32}">predicted time since the start</text>`;
  const rows = timeline.busy.map((bar) => [
    `rank ${bar.rank}`,
    LINK_NAMES[bar.resource],
    bar.stage,
    formatUs(bar.startUs),
    formatUs(bar.us),
  ]);
  return figure({
    label: title,
    width,
    height: end + MARGIN.bottom,
    body,
    table: table(['rank', 'link', 'stage', 'starts at', 'busy for'], rows),
  });
}
