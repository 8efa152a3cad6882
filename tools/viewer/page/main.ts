// The page: two sides, each with a file and options; each change of an option plans again in the worker.

import { sum } from '../../../planner/totals.ts';
import { formatCount } from '../../figures/format.ts';
import type { NamedBytes } from '../../readers/numpyRouting.ts';
import { html, type Markup } from '../../report/markup.ts';
import { headline, panelMarkup, panelsOf, sideBySide } from '../../report/panels.ts';
import { listen } from '../../report/readout.ts';
import { whatIfPanels } from '../../report/whatIfPanels.ts';
import type { Opened, Planned, Side } from '../protocol.ts';
import { isJsonFile, parseWhatIf } from '../whatIfFile.ts';
import { createClient } from './client.ts';
import { tokenDiagram } from './diagram.ts';
import { exampleGroup, type Group, groupFiles, servedGroups } from './files.ts';
import { formMarkup, ranksPerNodeChoices, readForm } from './form.ts';

/** What a side shows at present. */
interface Shown {
  readonly form: HTMLFormElement;
  files?: Group;
  opened?: Opened;
  planned?: Planned;
  /** The options have changed since the plan that is being made was asked for. */
  isDirty: boolean;
  isBusy: boolean;
}

function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

const client = createClient(new Worker('worker.js', { type: 'module' }));
const sides: Readonly<Record<Side, Shown>> = {
  a: { form: element('form-a'), isDirty: false, isBusy: false },
  b: { form: element('form-b'), isDirty: false, isBusy: false },
};
const compare = element<HTMLInputElement>('compare');
const status = element('status');
const tokenRank = element<HTMLInputElement>('token-rank');
const tokenToken = element<HTMLInputElement>('token-token');

function activeSides(): Side[] {
  return compare.checked ? ['a', 'b'] : ['a'];
}

function titleOf(side: Side): string {
  return `Plan ${side.toUpperCase()}`;
}

function put(target: HTMLElement, markup: Markup): void {
  target.innerHTML = markup.text;
}

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
    html`<h2>${titleOf(side)}</h2><p class="source">${name}: ${kind}, ${formatCount(tokens)} tokens, top-${topk}</p><p class="problem" role="alert" hidden></p>${formMarkup(side, opened)}<button type="button" class="save">Save this plan</button>`,
  );
}

/** Opens a group of files on a side and plans it. Throws nothing: what goes wrong is shown. */
async function open(side: Side, files: Group): Promise<void> {
  const shown = sides[side];
  try {
    const opened = await client.open(side, files);
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

/** Plans a side with what its form holds now; changes that arrive meanwhile are planned once, at the end. */
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
    const planned = await client.plan(side, readForm(shown.form));
    if (shown.isDirty) return;
    shown.planned = planned;
    clearError(side);
    element('plans').classList.remove('stale');
    render();
    await followToken();
  } catch (error) {
    // The old plan stays on the screen, dimmed, so that a half-typed number does not empty the page.
    element('plans').classList.add('stale');
    showError(side, error);
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

function render(): void {
  const shown = activeSides()
    .map((side) => ({ side, state: sides[side] }))
    .filter(({ state }) => state.planned !== undefined);
  if (shown.length === 0) return;
  element('plans').hidden = false;
  status.textContent = statusText();
  put(element('headlines'), html`${shown.map(({ side, state }) => headlineOf(side, state))}`);
  const panels = element('panels');
  const open = openTables(panels);
  const names = shown.map(({ side }) => titleOf(side));
  const drawn = panelsOf(shown.map(({ state }) => state.planned!.figures));
  put(panels, html`${drawn.map((panel) => panelMarkup(panel, names))}`);
  for (const id of open) {
    for (const details of document.querySelectorAll<HTMLDetailsElement>(`#${id} details`))
      details.open = true;
  }
}

/** Follows the chosen token through every plan on the page. */
async function followToken(): Promise<void> {
  const target = element('token-path');
  const shown = activeSides().filter((side) => sides[side].planned !== undefined);
  const [rank, token] = [Number(tokenRank.value), Number(tokenToken.value)];
  const parts = await Promise.all(
    shown.map(async (side) => {
      try {
        return tokenDiagram(await client.token(side, rank, token));
      } catch (error) {
        return html`<p class="empty">${error instanceof Error ? error.message : String(error)}</p>`;
      }
    }),
  );
  put(target, html`${sideBySide(parts, shown.map(titleOf))}`);
}

/** One more or one less token, on to the next or previous rank at the ends. */
function moveToken(step: 1 | -1): void {
  const tokens = sides.a.planned?.tokens ?? [];
  let [rank, token] = [Number(tokenRank.value), Number(tokenToken.value) + step];
  while (token < 0 && rank > 0) token += tokens[--rank] ?? 0;
  while (rank < tokens.length - 1 && token >= tokens[rank]!) token -= tokens[rank++]!;
  const last = Math.max(0, (tokens[rank] ?? 1) - 1);
  tokenRank.value = String(rank);
  tokenToken.value = String(Math.min(Math.max(0, token), last));
  void followToken();
}

async function save(side: Side): Promise<void> {
  const bytes = await client.save(side);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>]));
  link.download = `plan-${side}.fusco`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** The second side starts as a copy of the first one's file, to be planned with other options. */
async function toggleCompare(): Promise<void> {
  sides.b.form.hidden = !compare.checked;
  if (compare.checked && sides.b.opened === undefined && sides.a.files !== undefined) {
    await open('b', sides.a.files);
  } else {
    render();
    await followToken();
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

/** One group goes to the given side; two go to both, side by side. A result of `simulate` stands for itself. */
async function openGroups(groups: readonly Group[], side: Side): Promise<void> {
  const [first, second] = groups;
  if (first === undefined) return;
  if (first.length === 1 && isJsonFile(first[0]!)) return showPlacements(first[0]!);
  element('placements').hidden = true;
  await open(second === undefined ? side : 'a', first);
  if (second === undefined || sides.a.opened === undefined) return;
  compare.checked = true;
  sides.b.form.hidden = false;
  await open('b', second);
}

/** Runs something that reads or saves files; what goes wrong is shown. */
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
    void plan(side);
  });
  form.addEventListener('click', (event) => {
    if ((event.target as Element).closest('.save')) void attempt(side, () => save(side));
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
  element('example').addEventListener('click', () => {
    void attempt('a', async () => openGroups([await exampleGroup()], 'a'));
  });
  compare.addEventListener('change', () => void attempt('b', toggleCompare));
  element('token-form').addEventListener('submit', (event) => event.preventDefault());
  element('token-form').addEventListener('input', () => void followToken());
  element('token-previous').addEventListener('click', () => moveToken(-1));
  element('token-next').addEventListener('click', () => moveToken(1));
}

listen(document);
wireForm('a');
wireForm('b');
wireDrop();
wireControls();
status.textContent = 'Ready. Drop a file, or try the example.';
void attempt('a', async () => openGroups(await servedGroups(), 'a'));
