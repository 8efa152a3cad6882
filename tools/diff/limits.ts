// `--fail-on`: which changes fail a comparison.
//
//   EXPR    = "none" | LIMIT { "," LIMIT }
//   LIMIT   = METRIC OP BOUND | "level" OP LEVEL
//   OP      = ">" | ">=" | "<" | "<="
//   BOUND   = [ "+" | "-" ] NUMBER [ "%" | "KiB" | "MiB" | "GiB" ]
//
// A bound with a sign limits the change, a percentage that of the first plan's value; a bound without a sign limits the
// value of the second plan. A limit that no plan can break is refused.

import { FuscoError } from '../../planner/errors.ts';
import { METRICS, type Measured, type MetricDelta } from './metrics.ts';

/** In ascending order, which defines what `level>=movement` means. */
export const LEVELS = ['identical', 'metadata', 'order', 'movement', 'result'] as const;
export type DiffLevel = (typeof LEVELS)[number];

type Operator = '>' | '>=' | '<' | '<=';

/** One limit as it was written, and whether a pair of plans passes it. */
export interface Limit {
  readonly text: string;
  /** `level`, or the metric. */
  readonly name: string;
  /** The bound as text: `limit +1 %`. */
  readonly bound: string;
  /** True if the limit is broken. */
  readonly breaks: (level: DiffLevel, metrics: readonly MetricDelta[]) => boolean;
}

const UNITS: Readonly<Record<string, number>> = { '': 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };

const OPERATORS: Readonly<Record<Operator, (value: number, bound: number) => boolean>> = {
  '>': (value, bound) => value > bound,
  '>=': (value, bound) => value >= bound,
  '<': (value, bound) => value < bound,
  '<=': (value, bound) => value <= bound,
};

function refuse(text: string, reason: string): never {
  throw new FuscoError('E_USAGE', `--fail-on ${JSON.stringify(text)}: ${reason}`);
}

function levelLimit(text: string, operator: Operator, bound: string): Limit {
  const wanted = (LEVELS as readonly string[]).indexOf(bound);
  if (wanted < 0) refuse(text, `level ${bound} is not one of ${LEVELS.join(', ')}`);
  if (!LEVELS.some((_, level) => OPERATORS[operator](level, wanted)))
    refuse(text, `no level is ${operator} ${bound}; 'none' fails on nothing`);
  return {
    text,
    name: 'level',
    bound,
    breaks: (level) => OPERATORS[operator](LEVELS.indexOf(level), wanted),
  };
}

function metricLimit(text: string, name: string, operator: Operator, bound: string): Limit {
  if (!METRICS.some((metric) => metric.name === name)) {
    refuse(text, `${name} is not one of level, ${METRICS.map((metric) => metric.name).join(', ')}`);
  }
  const parts = /^([+-]?)([0-9]+(?:\.[0-9]+)?) ?(%|KiB|MiB|GiB|)$/.exec(bound);
  if (parts === null) refuse(text, `${bound} is not a number like 100, +2%, -64 or 40MiB`);
  const [, sign, digits, unit] = parts as unknown as [string, string, string, string];
  if (unit === '%' && sign === '') refuse(text, `a percentage limits a change: write +${bound} or -${bound}`);
  const size = Number(digits) * (sign === '-' ? -1 : 1) * (unit === '%' ? 1 : UNITS[unit]!);
  // Figures are not negative, and none decreases by more than 100 %.
  const least = unit === '%' ? -100 : sign === '' ? 0 : Number.NEGATIVE_INFINITY;
  if ((operator === '<' && size <= least) || (operator === '<=' && size < least))
    refuse(text, `no figure is ${operator} ${bound}: nothing can break it`);
  return {
    text,
    name,
    bound: `${sign}${digits}${unit === '' ? '' : ` ${unit}`}`,
    breaks: (_, metrics) => {
      const { from, to } = metrics.find((metric) => metric.name === name)!;
      if (sign === '') return OPERATORS[operator](to, size);
      if (unit !== '%') return OPERATORS[operator](to - from, size);
      // Compared without a division, so that a change from 0 is an unbounded one.
      return OPERATORS[operator](100 * (to - from), size * from);
    },
  };
}

/** Parses `--fail-on`. Throws E_USAGE that names the metric, the operator or the bound that is wrong. */
export function parseLimits(expression: string): Limit[] {
  if (expression.trim() === 'none') return [];
  return expression.split(',').map((part) => {
    const text = part.trim();
    const parts = /^([A-Za-z]+)\s*(>=|<=|>|<)\s*(\S+)$/.exec(text);
    if (parts === null) refuse(text, 'it is not METRIC>BOUND, for example busiestNicBytes>+2%');
    const [, name, operator, bound] = parts as unknown as [string, string, Operator, string];
    return name === 'level' ? levelLimit(text, operator, bound) : metricLimit(text, name, operator, bound);
  });
}

/** Throws E_USAGE for a limit on a figure that is 0 in both plans, because neither has what the figure counts. */
export function checkLimits(limits: readonly Limit[], plans: readonly Measured[]): void {
  for (const { text, name } of limits) {
    const [what, has] = METRICS.find((metric) => metric.name === name)?.needs ?? [];
    if (has === undefined || plans.some(({ summary }) => has(summary))) continue;
    refuse(
      text,
      `neither plan has ${what}, so ${name} is 0 and nothing can break it; predicted works for every plan`,
    );
  }
}
