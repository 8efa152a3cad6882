// The page: two sides, each with a file and options. Each change of an option makes a new plan in the worker.

import { sum } from '../../../planner/totals.ts';
import { formatCount } from '../../figures/format.ts';
import type { RecordedFigures } from '../../figures/recorded.ts';
import type { NamedBytes } from '../../readers/numpyRouting.ts';
import { isRunReport } from '../../readers/runReport.ts';
import { html, type Markup } from '../../report/markup.ts';
import { headline, panelMarkup } from '../../report/panels.ts';
import { listen, saveBytes } from '../../report/readout.ts';
import { whatIfPanels } from '../../report/whatIfPanels.ts';
import type { Difference, Planned, Side, Subject, ViewOptions } from '../protocol.ts';
import { isJsonFile, parseJsonBytes, parseWhatIf } from '../whatIfFile.ts';
import { addressOf, readAddress } from './address.ts';
import { detailMarkup, differenceMarkup, recordingMarkup } from './extras.ts';
import {
  exampleGroup,
  type Group,
  groupFiles,
  servedGroups,
  servedRecording,
  servedRouting,
} from './files.ts';
import { disableUnused, formMarkup, ranksPerNodeChoices, readForm } from './form.ts';
import { saveReport } from './saveReport.ts';
import {
  activeSides,
  client,
  compare,
  drawnPanels,
  element,
  figuresOf,
  plannedSides,
  put,
  type Shown,
  sides,
  titleOf,
} from './sides.ts';
import { followToken, wireToken } from './token.ts';

/** The state in the address when the page was opened; each side uses its options once. */
const remembered = readAddress(location.hash);
const unused: Partial<Record<Side, Partial<ViewOptions>>> = { ...remembered.options };
let isExample = false;
let difference: Difference | undefined;
const status = element('status');

function milliseconds(value: number): string {
  return `${value.toFixed(value < 10 ? 2 : 1)} ms`;
}

/** Shows an error at the form that caused it, or in the status line if there is none yet. */
function showError(side: Side, error: unknown): void {
  const { form, opened } = sides[side];
  const { code, hint } = error as { code?: string; hint?: string };
  const message = error instanceof Error ? error.message : String(error);
  const text = html`<code>${code ?? 'error'}</code> ${message} <em>${hint ?? ''}</em>`;
  const problem = form.querySelector<HTMLElement>('.problem');
  if (opened === undefined || problem === null) {
    put(status, html`<span class="problem">${text}</span>`);
    return;
  }
  put(problem, text);
  problem.hidden = false;
}

function clearError(side: Side): void {
  const problem = sides[side].form.querySelector<HTMLElement>('.problem');
  if (problem) problem.hidden = true;
}

function fillForm(side: Side): void {
  const { form, opened } = sides[side];
  if (opened === undefined) return;
  const { name, kind, tokens, topk } = opened;
  put(
    form,
    html`<h2>${titleOf(side)}</h2><p class="source">${name}: ${kind}, ${formatCount(tokens)} tokens, top-${topk}</p><p class="problem" role="alert" hidden></p>${formMarkup(side, opened)}<button type="button" class="save">Save this plan</button><button type="button" class="save-report">Save its report</button>`,
  );
  disableUnused(form);
}

/** Opens a group of files on a side and plans it. Never throws: errors are shown. */
async function open(side: Side, files: Group): Promise<void> {
  const shown = sides[side];
  try {
    const found = await client.open(side, files);
    const opened = { ...found, options: { ...found.options, ...unused[side] } };
    delete unused[side];
    Object.assign(shown, { files, opened });
    delete shown.planned;
  } catch (error) {
    showError(side, error);
    return;
  }
  fillForm(side);
  element('welcome').hidden = true;
  element('options').hidden = false;
  compare.disabled = false;
  await plan(side);
}

/** Plans a side with the current values of its form. Changes during planning lead to one more plan at the end. */
async function plan(side: Side): Promise<void> {
  const shown = sides[side];
  if (shown.isBusy) {
    shown.isDirty = true;
    return;
  }
  shown.isBusy = true;
  do {
    shown.isDirty = false;
    await planOnce(side);
  } while (shown.isDirty);
  shown.isBusy = false;
}

async function planOnce(side: Side): Promise<void> {
  const shown = sides[side];
  if (shown.opened === undefined) return;
  try {
    const options = readForm(shown.form);
    const planned = await client.plan(side, options);
    if (shown.isDirty) return;
    Object.assign(shown, { planned, options });
    difference = undefined;
    clearError(side);
    remember();
    element('plans').classList.remove('stale');
    render();
    await followToken();
    void complete(side, planned);
  } catch (error) {
    // The old plan stays on the screen, dimmed, so that a half-typed number does not empty the page.
    element('plans').classList.add('stale');
    showError(side, error);
  }
}

/** Keeps options and comparison in the address. */
function remember(): void {
  const options = Object.fromEntries(
    activeSides().flatMap((side) => (sides[side].options === undefined ? [] : [[side, sides[side].options]])),
  );
  history.replaceState(null, '', addressOf({ isExample, isCompared: compare.checked, options }));
}

/** Adds the parts that take longer than planning: other strategies, and the differences between two plans. */
async function complete(side: Side, planned: Planned): Promise<void> {
  try {
    const strategies = await client.strategies(side);
    if (sides[side].planned !== planned) return;
    sides[side].planned = { ...planned, figures: { ...planned.figures, strategies } };
    if (compare.checked && sides.a.planned !== undefined && sides.b.planned !== undefined) {
      difference = await client.difference();
    }
    renderLate();
  } catch {
    // The plan was replaced in the meantime; the new plan is completed separately.
  }
}

function statusText(): string {
  const parts = activeSides().flatMap((side) => {
    const { planned } = sides[side];
    if (planned === undefined) return [];
    const { times, tokens } = planned;
    const what = `${formatCount(sum(tokens))} tokens on ${tokens.length} ranks`;
    return [
      `${compare.checked ? `${side.toUpperCase()}: ` : ''}${compare.checked ? 'p' : 'P'}lanned ${what} in ${milliseconds(times.plan)} (plan id ${milliseconds(times.id)}, charts counted in ${milliseconds(times.figures)})`,
    ];
  });
  return parts.length === 0 ? '' : `${parts.join('; ')}. The planner runs in a worker.`;
}

function headlineOf(side: Side, { planned, opened }: Shown): Markup {
  if (planned === undefined) return html``;
  const { planId, figures, isResplit } = planned;
  const title = compare.checked ? titleOf(side) : 'Plan';
  const notes = [
    isResplit ? 'tokens split again for this number of ranks' : '',
    opened?.planId === undefined
      ? ''
      : opened.planId === planId
        ? 'the plan in the file, made again'
        : 'differs from the plan in the file',
  ].filter((note) => note !== '');
  return html`<div class="headline" data-plan-id="${planId}" data-plan-ms="${planned.times.plan}"><h2>${title} <small>plan id <code>${planId.slice(0, 24)}…</code></small>${notes.map((note) => html`<small>${note}</small>`)}</h2>${headline(figures)}</div>`;
}

/** Panels whose tables are open; they stay open when the charts are drawn again. */
function openTables(panels: HTMLElement): Set<string> {
  const open = [...panels.querySelectorAll('details[open]')];
  return new Set(open.map((details) => details.closest('section')?.id ?? ''));
}

function renderHeadlines(shown: readonly { side: Side; state: Shown }[]): void {
  const [optionsA, optionsB] = [sides.a.options, sides.b.options];
  const different =
    shown.length === 2 && difference !== undefined && optionsA && optionsB
      ? differenceMarkup(difference, optionsA, optionsB)
      : html``;
  put(element('headlines'), html`${different}${shown.map(({ side, state }) => headlineOf(side, state))}`);
}

function render(): void {
  const shown = plannedSides();
  if (shown.length === 0) return;
  element('plans').hidden = false;
  status.textContent = statusText();
  renderHeadlines(shown);
  const panels = element('panels');
  const open = openTables(panels);
  const names = shown.map(({ side }) => titleOf(side));
  put(panels, html`${drawnPanels(shown).map((panel) => panelMarkup(panel, names))}`);
  for (const id of open) {
    for (const details of document.querySelectorAll<HTMLDetailsElement>(`#${id} details`))
      details.open = true;
  }
}

/** Draws only the parts that arrive after the plan, because the user may be reading a chart. */
function renderLate(): void {
  const shown = plannedSides();
  renderHeadlines(shown);
  const names = shown.map(({ side }) => titleOf(side));
  const drawn = drawnPanels(shown);
  for (const [i, panel] of drawn.entries()) {
    if (panel.id !== 'strategies' && panel.id !== 'memory') continue;
    document.getElementById(`panel-${panel.id}`)?.remove();
    const { text } = panelMarkup(panel, names);
    const before = i === 0 ? null : document.getElementById(`panel-${drawn[i - 1]!.id}`);
    if (before === null) element('panels').insertAdjacentHTML('afterbegin', text);
    else before.insertAdjacentHTML('afterend', text);
  }
}

async function save(side: Side): Promise<void> {
  const bytes = await client.save(side);
  saveBytes(`plan-${side}.fusco`, new Blob([bytes as Uint8Array<ArrayBuffer>]));
}

/** The report of the plan that a side shows, as `fusco inspect --html` writes it. */
async function saveReportOf(side: Side): Promise<void> {
  const { planned, opened } = sides[side];
  if (planned === undefined || opened === undefined) return;
  await saveReport(opened.name, { ...planned, figures: figuresOf(sides[side]) });
}

/** The details to request for a chosen mark; undefined for marks without details. */
function subjectOf({ dataset }: HTMLElement | SVGElement, side: Side): Subject | undefined {
  if (dataset.expert !== undefined) return { expert: Number(dataset.expert) };
  if (dataset.rank !== undefined) return { rank: Number(dataset.rank) };
  const isRank = sides[side].planned?.figures.heat.ranksPerCell === 1;
  if (dataset.from === undefined || !isRank) return undefined;
  return { from: Number(dataset.from), to: Number(dataset.to) };
}

/** Shows the details of a chosen mark: below its chart, or by opening its routing. */
async function choose(mark: HTMLElement | SVGElement): Promise<void> {
  const { routing } = mark.dataset;
  if (routing !== undefined) {
    await openGroups([await servedRouting(Number(routing))], 'a');
    return;
  }
  const columns = [...(mark.closest('.sides')?.children ?? [])];
  const side = columns.indexOf(mark.closest('.side')!) === 1 ? 'b' : 'a';
  const subject = subjectOf(mark, side);
  const readout = mark.closest('figure')?.querySelector('.readout');
  if (subject === undefined || !readout) return;
  let target = readout.nextElementSibling as HTMLElement;
  if (!target.classList.contains('detail')) {
    target = document.createElement('div');
    target.className = 'detail';
    target.setAttribute('aria-live', 'polite');
    readout.after(target);
  }
  put(target, detailMarkup(await client.detail(side, subject)));
}

/** The second side starts as a copy of the first one's file, to be planned with other options. */
async function toggleCompare(): Promise<void> {
  sides.b.form.hidden = !compare.checked;
  difference = undefined;
  remember();
  if (compare.checked && sides.b.opened === undefined && sides.a.files !== undefined) {
    await open('b', sides.a.files);
  } else {
    render();
    await followToken();
    if (sides.a.planned !== undefined) void complete('a', sides.a.planned);
  }
}

/** Shows a recording under several placements instead of plans. */
function showPlacements(file: NamedBytes): void {
  const panels = whatIfPanels(parseWhatIf(file));
  for (const id of ['welcome', 'options', 'plans']) element(id).hidden = true;
  element('placements').hidden = false;
  const drawn = panels.map((panel) => panelMarkup(panel, []));
  put(element('placements'), html`<h2>${file.name}</h2><div class="panels">${drawn}</div>`);
  status.textContent = 'A recording under several placements. Times are predicted by a cost model.';
}

/** A result of `simulate` is shown alone; a run is shown with the plan on the page that was executed. */
function openJson(file: NamedBytes): void {
  const run = parseJsonBytes(file);
  if (!isRunReport(run)) {
    showPlacements(file);
    return;
  }
  const shown = plannedSides().filter(({ state }) => state.planned!.planId === run.planId);
  if (shown.length === 0) {
    const text = `${file.name}: a run of plan ${run.planId.slice(0, 12)}, which is not on the page`;
    throw Object.assign(new Error(text), { code: 'E_OPTION', hint: 'Open the plan that was run first.' });
  }
  for (const { state } of shown) state.run = run;
  renderLate();
}

/** One group goes to the given side; two groups go to both sides. A result of `simulate` is shown alone. */
async function openGroups(groups: readonly Group[], side: Side): Promise<void> {
  const [first, second] = groups;
  if (first === undefined) return;
  if (first.length === 1 && isJsonFile(first[0]!)) {
    openJson(first[0]!);
    return;
  }
  element('placements').hidden = true;
  await open(second === undefined ? side : 'a', first);
  if (second === undefined || sides.a.opened === undefined) return;
  compare.checked = true;
  sides.b.form.hidden = false;
  await open('b', second);
}

/** Runs an action that reads or saves files; errors are shown. */
async function attempt(side: Side, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    showError(side, error);
  }
}

function wireForm(side: Side): void {
  const { form } = sides[side];
  form.addEventListener('submit', (event) => event.preventDefault());
  form.addEventListener('input', (event) => {
    const field = event.target as HTMLInputElement;
    if (field.name === 'ranks') {
      const perNode = form.elements.namedItem('ranksPerNode') as HTMLSelectElement;
      put(perNode, ranksPerNodeChoices(Number(field.value), Number(perNode.value)));
    }
    if (field.name === 'placement') form.querySelector<HTMLElement>('.map')!.hidden = field.value !== 'map';
    disableUnused(form);
    void plan(side);
  });
  form.addEventListener('click', (event) => {
    const target = event.target as Element;
    if (target.closest('.save')) void attempt(side, () => save(side));
    if (target.closest('.save-report')) void attempt(side, () => saveReportOf(side));
  });
}

function wireDrop(): void {
  const body = document.body;
  for (const type of ['dragover', 'dragenter']) {
    body.addEventListener(type, (event) => {
      event.preventDefault();
      body.classList.add('dropping');
    });
  }
  body.addEventListener('dragleave', (event) => {
    if ((event as DragEvent).relatedTarget === null) body.classList.remove('dropping');
  });
  body.addEventListener('drop', (event) => {
    event.preventDefault();
    body.classList.remove('dropping');
    const side: Side = (event.target as Element).closest('#form-b') ? 'b' : 'a';
    const files = event.dataTransfer?.files ?? [];
    void attempt(side, async () => openGroups(await groupFiles(files), side));
  });
}

async function openExample(): Promise<void> {
  isExample = true;
  await openGroups([await exampleGroup()], 'a');
}

function showRecording(all: readonly RecordedFigures[]): void {
  if (all.length === 0) return;
  element('recording').hidden = false;
  put(element('recording'), recordingMarkup(all));
}

/** The files of the command line, or the state in the address. */
async function openFirst(): Promise<void> {
  const recording = await servedRecording();
  showRecording(recording);
  const groups = recording.length > 0 ? [await servedRouting(0)] : await servedGroups();
  if (groups.length > 0) await openGroups(groups, 'a');
  else if (remembered.isExample) await openExample();
  if (!remembered.isCompared || sides.a.opened === undefined || compare.checked) return;
  compare.checked = true;
  await toggleCompare();
}

function wireControls(): void {
  const file = element<HTMLInputElement>('file');
  file.addEventListener('change', () => {
    void attempt('a', async () => {
      const groups = await groupFiles(file.files ?? []);
      // The same file may be chosen again after it has changed.
      file.value = '';
      await openGroups(groups, 'a');
    });
  });
  element('example').addEventListener('click', () => void attempt('a', openExample));
  document.addEventListener('click', (event) => {
    const mark = (event.target as Element).closest?.<SVGElement>('.mark');
    if (mark) void attempt('a', () => choose(mark));
  });
  document.addEventListener('keydown', (event) => {
    const mark = (event.target as Element).closest?.<SVGElement>('.mark');
    if (mark && event.key === 'Enter') void attempt('a', () => choose(mark));
  });
  compare.addEventListener('change', () => void attempt('b', toggleCompare));
  wireToken();
}

listen(document);
wireForm('a');
wireForm('b');
wireDrop();
wireControls();
status.textContent = 'Ready. Drop a file, or try the example.';
void attempt('a', openFirst);
