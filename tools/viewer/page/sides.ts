// The state of the page: two sides, each with a file, options and a plan, and the worker that plans.

import type { Figures } from '../../figures/planFigures.ts';
import { measuredOf } from '../../figures/strategyRows.ts';
import type { RunReport } from '../../readers/runReport.ts';
import type { Markup } from '../../report/markup.ts';
import { panelsOf } from '../../report/panels.ts';
import type { Opened, Planned, Side, ViewOptions } from '../protocol.ts';
import { createClient } from './client.ts';
import type { Group } from './files.ts';

/** The current contents of a side. */
export interface Shown {
  readonly form: HTMLFormElement;
  files?: Group;
  /** A run of some plan of this side; shown with the plan that it executed. */
  run?: RunReport;
  opened?: Opened;
  planned?: Planned;
  /** Of the plan that is shown. */
  options?: ViewOptions;
  /** The options have changed since the current plan was requested. */
  isDirty: boolean;
  isBusy: boolean;
}

export function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

export const client = createClient(new Worker('worker.js', { type: 'module' }));
export const sides: Readonly<Record<Side, Shown>> = {
  a: { form: element('form-a'), isDirty: false, isBusy: false },
  b: { form: element('form-b'), isDirty: false, isBusy: false },
};
export const compare = element<HTMLInputElement>('compare');

export function activeSides(): Side[] {
  return compare.checked ? ['a', 'b'] : ['a'];
}

export function titleOf(side: Side): string {
  return `Plan ${side.toUpperCase()}`;
}

export function put(target: HTMLElement, markup: Markup): void {
  target.innerHTML = markup.text;
}

/** The sides that have a plan, with their state. */
export function plannedSides(): { side: Side; state: Shown }[] {
  return activeSides()
    .map((side) => ({ side, state: sides[side] }))
    .filter(({ state }) => state.planned !== undefined);
}

/** The figures of a side, with the run of its plan. */
export function figuresOf({ planned, run }: Shown): Figures {
  const { figures, planId } = planned!;
  if (figures.strategies === undefined || run?.planId !== planId) return figures;
  return { ...figures, strategies: { ...figures.strategies, measured: measuredOf(run) } };
}

export function drawnPanels(shown: readonly { state: Shown }[]) {
  return panelsOf(shown.map(({ state }) => figuresOf(state)));
}
