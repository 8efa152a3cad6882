// The options of one side: their markup and their values.

import { html, type Markup, NOTHING } from '../../report/markup.ts';
import type { Opened, Side, ViewOptions } from '../protocol.ts';

const STRATEGIES = ['flat', 'hier', 'auto'] as const;
const BALANCES = ['best', 'static', 'rotate', 'lpt'] as const;
const PARTIALS = ['payload', 'f32'] as const;
const SUMS = ['node', 'token'] as const;
const DTYPES = ['bf16', 'f16', 'f32', 'fp8', 'bytes'] as const;
const RULES = ['quota-1', 'local'] as const;

function divisors(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i + 1).filter((size) => n % size === 0);
}

/** Options of a select: values, or pairs of a value and its text. The chosen one is marked. */
function choices(
  values: readonly (string | number | readonly [string, string])[],
  chosen: string | number,
): Markup {
  return html`${values.map((item) => {
    const [value, text] = typeof item === 'object' ? item : [item, item];
    return html`<option value="${value}"${value === chosen ? html` selected` : NOTHING}>${text}</option>`;
  })}`;
}

/** Divisors of the number of ranks. If the chosen value is not one of them, the largest up to 8 is chosen. */
export function ranksPerNodeChoices(ranks: number, chosen: number): Markup {
  const sizes = Number.isInteger(ranks) && ranks >= 1 && ranks <= 4096 ? divisors(ranks) : [1];
  const fallback = sizes.filter((size) => size <= 8).at(-1) ?? 1;
  return choices(sizes, sizes.includes(chosen) ? chosen : fallback);
}

/** Machines for which times are predicted: a selection of those that `fusco simulate` knows. */
const MACHINES: readonly (readonly [string, string])[] = [
  ['', 'H100, nodes of the plan'],
  ...[
    ...['h100-nvl2', 'h100-nvl4', 'h100-nvl8', 'h100-2x8', 'h100-4x8', 'h100-8x8', 'h100-64x8'],
    ...['h200-nvl8', 'h200-8x8', 'gb200-nvl72'],
  ].map((name) => [name, name] as const),
];

/** Disables the options that have no effect in a plan. */
export function disableUnused(form: HTMLFormElement): void {
  const field = (name: string) => form.elements.namedItem(name) as HTMLInputElement | HTMLSelectElement;
  const [strategy, placement] = [field('strategy').value, field('placement').value];
  for (const name of ['balance', 'partial', 'sum']) field(name).disabled = strategy === 'flat';
  field('extra').disabled = placement !== 'packed';
  field('replicas').disabled = placement === 'blocks' || placement === 'round-robin';
}

/** A field of the form: its name, its label, its control, and a note. */
type Field = readonly [name: string, label: string, control: Markup, note?: string];

const PLACEMENTS = [
  ['blocks', 'contiguous blocks'],
  ['round-robin', 'round robin'],
  ['packed', 'packed by load'],
  ['map', 'an explicit map'],
] as const;

function fields(side: Side, { options, fileRanks, kind }: Opened): Field[] {
  const { ranks, ranksPerNode, strategy, balance, partial, sum, dtype, placement, replicas } = options;
  const number = (name: keyof ViewOptions, min: number, max: number) =>
    html`<input id="${side}-${name}" name="${name}" type="number" min="${min}" max="${max}" step="1" value="${options[name] as number}">`;
  const select = (name: keyof ViewOptions, list: Markup) =>
    html`<select id="${side}-${name}" name="${name}">${list}</select>`;
  const split =
    fileRanks === undefined
      ? 'tokens are split into equal blocks'
      : `the file has ${fileRanks}; another number splits it again`;
  const placed = choices(PLACEMENTS, typeof placement === 'string' ? placement : 'map');
  return [
    [
      'experts',
      'Experts',
      number('experts', 1, 65535),
      kind === 'routing' ? 'guessed from the largest id' : '',
    ],
    ['ranks', 'Ranks', number('ranks', 1, 4096), split],
    ['ranksPerNode', 'Ranks per node', select('ranksPerNode', ranksPerNodeChoices(ranks, ranksPerNode))],
    ['strategy', 'Strategy', select('strategy', choices(STRATEGIES, strategy))],
    ['balance', 'Balancer', select('balance', choices(BALANCES, balance)), 'who forwards; hierarchical only'],
    [
      'partial',
      'Partial sums',
      select('partial', choices(PARTIALS, partial)),
      'of combine; hierarchical only',
    ],
    ['sum', 'Order of sums', select('sum', choices(SUMS, sum)), 'of combine; hierarchical only'],
    ['align', 'Alignment (rows)', number('align', 1, 1 << 20)],
    ['capacity', 'Capacity (rows)', number('capacity', 0, 2 ** 31 - 1), 'per expert; 0 means no limit'],
    ['hidden', 'Elements of a row', number('hidden', 1, 1 << 24)],
    ['dtype', 'Dtype', select('dtype', choices(DTYPES, dtype))],
    ['placement', 'Placement', select('placement', placed)],
    ['extra', 'Replicas', number('extra', 0, 65535), 'instances beyond one per expert; packed by load only'],
    [
      'replicas',
      'Replica rule',
      select('replicas', choices(RULES, replicas)),
      'which instance receives a row',
    ],
    ['topology', 'Machine', select('topology', choices(MACHINES, options.topology)), 'for predicted times'],
  ];
}

/** Up to this width the options are folded, so that the results are near the top. The same width is in viewer.css. */
const NARROW_PAGE = 860;

/** The form of one side, filled with the options to start from. */
export function formMarkup(side: Side, opened: Opened): Markup {
  const { placement } = opened.options;
  const map = typeof placement === 'string' ? '' : JSON.stringify(placement);
  const rows = fields(side, opened).map(([name, label, control, note = '']) => {
    const hint = note === '' ? NOTHING : html`<span class="note">${note}</span>`;
    return html`<label for="${side}-${name}"><span class="name">${label}</span>${control}${hint}</label>`;
  });
  const isOpen = innerWidth > NARROW_PAGE ? html` open` : NOTHING;
  return html`<details${isOpen}><summary>Options</summary><div class="fields">${rows}<label for="${side}-map" class="map"${typeof placement === 'string' ? html` hidden` : NOTHING}><span class="name">Map (JSON): expert → rank or ranks</span><textarea id="${side}-map" name="map" rows="3" spellcheck="false">${map}</textarea></label></div></details>`;
}

/** The map in the text field. Throws SyntaxError if it is not JSON; the planner checks its contents. */
function readMap(text: string): ViewOptions['placement'] {
  return JSON.parse(text === '' ? '[]' : text);
}

/** The current values of the form. Throws SyntaxError for a map that is not JSON; the planner checks ranges. */
export function readForm(form: HTMLFormElement): ViewOptions {
  const data = new FormData(form);
  const text = (name: string) => String(data.get(name) ?? '').trim();
  // An empty field is not a number; Number('') would be 0.
  const number = (name: string) => (text(name) === '' ? Number.NaN : Number(text(name)));
  const choice = <T extends string>(name: string, values: readonly T[]) =>
    values.find((value) => value === text(name)) ?? values[0]!;
  const kind = choice('placement', ['blocks', 'round-robin', 'packed', 'map'] as const);
  return {
    experts: number('experts'),
    ranks: number('ranks'),
    ranksPerNode: number('ranksPerNode'),
    strategy: choice('strategy', STRATEGIES),
    balance: choice('balance', BALANCES),
    partial: choice('partial', PARTIALS),
    sum: choice('sum', SUMS),
    align: number('align'),
    capacity: number('capacity'),
    hidden: number('hidden'),
    dtype: choice('dtype', DTYPES),
    topology: text('topology'),
    placement: kind === 'map' ? readMap(text('map')) : kind,
    // The data does not contain disabled fields.
    extra: data.has('extra') ? number('extra') : 0,
    replicas: choice('replicas', RULES),
  };
}
