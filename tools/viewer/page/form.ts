// The options of one side: their markup, and what they hold.

import { html, type Markup, NOTHING } from '../../report/markup.ts';
import type { Opened, Side, ViewOptions } from '../protocol.ts';

const STRATEGIES = ['flat', 'hier', 'auto'] as const;
const BALANCES = ['best', 'static', 'rotate', 'lpt'] as const;
const PARTIALS = ['payload', 'f32'] as const;
const DTYPES = ['bf16', 'f16', 'f32', 'fp8'] as const;

function divisors(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i + 1).filter((size) => n % size === 0);
}

/** Options of a select; the chosen one is marked. */
function choices(values: readonly (string | number)[], chosen: string | number): Markup {
  return html`${values.map((value) =>
    value === chosen
      ? html`<option value="${value}" selected>${value}</option>`
      : html`<option value="${value}">${value}</option>`,
  )}`;
}

/** Divisors of the number of ranks; the largest up to 8 where the chosen one is none of them. */
export function ranksPerNodeChoices(ranks: number, chosen: number): Markup {
  const sizes = Number.isInteger(ranks) && ranks >= 1 && ranks <= 4096 ? divisors(ranks) : [1];
  const fallback = sizes.filter((size) => size <= 8).at(-1) ?? 1;
  return choices(sizes, sizes.includes(chosen) ? chosen : fallback);
}

interface Field {
  readonly name: string;
  readonly label: string;
  readonly control: Markup;
  readonly note?: string;
}

function numberInput(side: Side, name: string, value: number, min: number, max: number): Markup {
  return html`<input id="${side}-${name}" name="${name}" type="number" min="${min}" max="${max}" step="1" value="${value}">`;
}

function select(side: Side, name: string, options: Markup): Markup {
  return html`<select id="${side}-${name}" name="${name}">${options}</select>`;
}

function fields(side: Side, opened: Opened): Field[] {
  const { options, fileRanks } = opened;
  const { placement } = options;
  const kind = typeof placement === 'string' ? placement : 'map';
  const joined =
    fileRanks === undefined
      ? 'tokens are cut into equal blocks'
      : `the file has ${fileRanks}; others cut it anew`;
  return [
    {
      name: 'experts',
      label: 'Experts',
      control: numberInput(side, 'experts', options.experts, 1, 65535),
      ...(opened.kind === 'routing' ? { note: 'guessed from the largest id' } : {}),
    },
    {
      name: 'ranks',
      label: 'Ranks',
      control: numberInput(side, 'ranks', options.ranks, 1, 4096),
      note: joined,
    },
    {
      name: 'ranksPerNode',
      label: 'Ranks per node',
      control: select(side, 'ranksPerNode', ranksPerNodeChoices(options.ranks, options.ranksPerNode)),
    },
    {
      name: 'strategy',
      label: 'Strategy',
      control: select(side, 'strategy', choices(STRATEGIES, options.strategy)),
    },
    {
      name: 'balance',
      label: 'Balancer',
      control: select(side, 'balance', choices(BALANCES, options.balance)),
      note: 'who forwards; hierarchical only',
    },
    {
      name: 'partial',
      label: 'Partial sums',
      control: select(side, 'partial', choices(PARTIALS, options.partial)),
      note: 'of combine; hierarchical only',
    },
    {
      name: 'align',
      label: 'Alignment (rows)',
      control: numberInput(side, 'align', options.align, 1, 1 << 20),
    },
    {
      name: 'capacity',
      label: 'Capacity (rows)',
      control: numberInput(side, 'capacity', options.capacity, 0, 2 ** 31 - 1),
      note: 'per expert; 0 means no limit',
    },
    {
      name: 'hidden',
      label: 'Elements of a row',
      control: numberInput(side, 'hidden', options.hidden, 1, 1 << 24),
    },
    { name: 'dtype', label: 'Dtype', control: select(side, 'dtype', choices(DTYPES, options.dtype)) },
    {
      name: 'placement',
      label: 'Placement',
      control: select(
        side,
        'placement',
        html`${(
          [
            ['blocks', 'contiguous blocks'],
            ['round-robin', 'round robin'],
            ['map', 'a map of its own'],
          ] as const
        ).map(([value, text]) =>
          value === kind
            ? html`<option value="${value}" selected>${text}</option>`
            : html`<option value="${value}">${text}</option>`,
        )}`,
      ),
    },
  ];
}

/** The form of one side, filled with the options to start from. */
export function formMarkup(side: Side, opened: Opened): Markup {
  const { placement } = opened.options;
  const map = typeof placement === 'string' ? '' : JSON.stringify(placement);
  const rows = fields(side, opened).map(({ name, label, control, note }) => {
    const hint = note === undefined ? NOTHING : html`<span class="note">${note}</span>`;
    return html`<label for="${side}-${name}"><span class="name">${label}</span>${control}${hint}</label>`;
  });
  return html`${rows}<label for="${side}-map" class="map"${typeof placement === 'string' ? html` hidden` : NOTHING}><span class="name">Map (JSON): expert → rank or ranks</span><textarea id="${side}-map" name="map" rows="3" spellcheck="false">${map}</textarea></label>`;
}

/** The map in the text field. Throws SyntaxError where it is no JSON; what it says is the planner's to judge. */
function readMap(text: string): ViewOptions['placement'] {
  return JSON.parse(text === '' ? '[]' : text);
}

/** What the form holds now. Throws SyntaxError for a map that is no JSON; ranges are checked by the planner. */
export function readForm(form: HTMLFormElement): ViewOptions {
  const data = new FormData(form);
  const text = (name: string) => String(data.get(name) ?? '').trim();
  // An empty field is no number; Number('') would be 0.
  const number = (name: string) => (text(name) === '' ? Number.NaN : Number(text(name)));
  const choice = <T extends string>(name: string, values: readonly T[]) =>
    values.find((value) => value === text(name)) ?? values[0]!;
  const kind = choice('placement', ['blocks', 'round-robin', 'map'] as const);
  return {
    experts: number('experts'),
    ranks: number('ranks'),
    ranksPerNode: number('ranksPerNode'),
    strategy: choice('strategy', STRATEGIES),
    balance: choice('balance', BALANCES),
    partial: choice('partial', PARTIALS),
    align: number('align'),
    capacity: number('capacity'),
    hidden: number('hidden'),
    dtype: choice('dtype', DTYPES),
    placement: kind === 'map' ? readMap(text('map')) : kind,
  };
}
