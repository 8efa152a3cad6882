// The state in the page's address: the options of both sides, whether they are compared, and the example. It survives a
// reload, and the address can be shared with anyone who serves the same files.

import type { Side, ViewOptions } from '../protocol.ts';

export interface Remembered {
  readonly isExample: boolean;
  readonly isCompared: boolean;
  readonly options: Readonly<Partial<Record<Side, Partial<ViewOptions>>>>;
}

const SIDES = ['a', 'b'] as const;

/** The options in an address, if they have the right types; the form and the planner check their values. */
function optionsOf(text: string | null): Partial<ViewOptions> | undefined {
  if (text === null) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Reads the part of an address behind #. */
export function readAddress(hash: string): Remembered {
  const fields = new URLSearchParams(hash.replace(/^#/, ''));
  const options: Partial<Record<Side, Partial<ViewOptions>>> = {};
  for (const side of SIDES) {
    const found = optionsOf(fields.get(side));
    if (found !== undefined) options[side] = found;
  }
  return { isExample: fields.has('example'), isCompared: fields.has('compare'), options };
}

/** The part of an address behind #, which readAddress reads. */
export function addressOf({ isExample, isCompared, options }: Remembered): string {
  const fields = new URLSearchParams();
  if (isExample) fields.set('example', '');
  if (isCompared) fields.set('compare', '');
  for (const side of SIDES) {
    const chosen = options[side];
    if (chosen !== undefined) fields.set(side, JSON.stringify(chosen));
  }
  return `#${fields}`;
}
