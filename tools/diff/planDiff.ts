// The result of a comparison of two plans.

import type { ExpertMove } from './experts.ts';
import type { DiffLevel } from './limits.ts';
import type { MetricDelta } from './metrics.ts';
import type { Cause, Move } from './moves.ts';

export interface OptionDelta {
  option: string;
  from: unknown;
  to: unknown;
}

/** One rank or expert whose figure changed. */
export interface Delta {
  index: number;
  from: number;
  to: number;
}

/** Payload bytes of one link that changed. */
export interface LinkDelta {
  sender: number;
  receiver: number;
  between: 'ranks' | 'nodes';
  from: number;
  to: number;
}

export interface PlanDiff {
  /**
   * `result`: some receive buffer has another row somewhere. `movement`: every receive buffer is the same, but rows
   * travel differently, and partial sums of nodes may round differently. `order`: only slices and schedule differ.
   * `metadata`: only what the plan id does not cover.
   */
  level: DiffLevel;
  changed: boolean;
  /** One sentence: what changed, the consequences, and the predicted time before and after. */
  headline: string;
  /** The machine of the predicted times. */
  machine: string;
  metrics: MetricDelta[];
  options: OptionDelta[];
  /** Experts that live on other ranks, most rows first. */
  placement: ExpertMove[];
  /** Each list has the largest change first. `nicBytes` is the larger of sent and received between nodes. */
  ranks: { tokens: Delta[]; recvRows: Delta[]; keptRows: Delta[]; nicBytes: Delta[] };
  /** Rows per logical expert. */
  experts: Delta[];
  links: LinkDelta[];
  movedEntries: number;
  causes: Record<Cause, number>;
  /** The first moved entries, those with a root cause first. */
  moves: Move[];
  /** Other metadata, a line each; only at level `metadata`. */
  metadata: string[];
}
