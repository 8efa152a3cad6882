// Amounts with their units, as the charts say them.

import { formatCount } from '../format.ts';

/** A count, or a mean with one decimal. */
export function count(value: number): string {
  return formatCount(Math.round(value * 10) / 10);
}

/** 1 is "1 row", anything else "n rows". */
export function rows(value: number): string {
  return value === 1 ? '1 row' : `${count(value)} rows`;
}

export function tokens(value: number): string {
  return value === 1 ? '1 token' : `${count(value)} tokens`;
}

export function segments(value: number): string {
  return value === 1 ? '1 segment' : `${count(value)} segments`;
}

/** A ratio: `1.82 ×`. */
export function times(ratio: number): string {
  return `${ratio.toFixed(2)} ×`;
}

export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
