// Messages between the page and its worker: one request, one answer, matched by number.

import type { Dtype, PartialDtype, PlacementMap, Strategy, SumOrder } from '../../planner/index.ts';
import type { Balance, ReplicaRule } from '../../planner/spec.ts';
import type { Figures } from '../figures/planFigures.ts';
import type { Strategies } from '../figures/strategyRows.ts';
import type { NamedBytes } from '../readers/numpyRouting.ts';
import type { TokenPath } from './tokenPath.ts';

/** The two plans that can be on the page. */
export type Side = 'a' | 'b';

/** Planning options as the page has them; every field is set. Other options of a plan's file are kept. */
export interface ViewOptions {
  readonly experts: number;
  readonly ranks: number;
  readonly ranksPerNode: number;
  readonly strategy: Strategy | 'auto';
  readonly balance: Balance;
  readonly partial: PartialDtype;
  readonly sum: SumOrder;
  readonly align: number;
  readonly capacity: number;
  readonly hidden: number;
  readonly dtype: Dtype;
  /** Name of the machine for which times are predicted; empty for H100 with eight GPUs per node. */
  readonly topology: string;
  /** Contiguous blocks, expert e on rank e mod ranks, packed by the rows of each expert, or an explicit map. */
  readonly placement: 'blocks' | 'round-robin' | 'packed' | PlacementMap;
  /** Instances beyond one per expert of a packed placement. */
  readonly extra: number;
  /** Which instance of a replicated expert receives a row. */
  readonly replicas: ReplicaRule;
}

export interface Opened {
  readonly kind: 'routing' | 'plan';
  readonly name: string;
  readonly topk: number;
  readonly tokens: number;
  /** Ranks that the file itself has; undefined for one table without an axis of ranks. */
  readonly fileRanks?: number;
  /** Of a plan: its plan id, as computed from the file. */
  readonly planId?: string;
  /** Initial options: those of the plan, or a guess from the ids. */
  readonly options: ViewOptions;
}

/** Wall-clock milliseconds of the worker's steps. */
export interface Times {
  /** The planner alone: routing tables in, finished shards out. */
  readonly plan: number;
  /** SHA-256 of the plan. */
  readonly id: number;
  /** All counts for the charts. */
  readonly figures: number;
}

export interface Planned {
  readonly planId: string;
  readonly figures: Figures;
  readonly tokens: readonly number[];
  readonly times: Times;
  /** The tables were split again, because another number of ranks was asked for. */
  readonly isResplit: boolean;
}

/** How plan B differs from plan A, as lines and a table. */
export interface Difference {
  readonly headline: string;
  /** What was changed, one line each. */
  readonly causes: readonly string[];
  /** All figures that changed: name, value in A, value in B, change. */
  readonly figures: readonly (readonly [what: string, a: string, b: string, change: string])[];
}

/** A mark of a chart that was chosen: an expert instance, a rank, or a pair of ranks. */
export type Subject =
  | { readonly expert: number }
  | { readonly rank: number }
  | { readonly from: number; readonly to: number };

/** Details of a mark: a title, and lines with the largest parts first. */
export interface Detail {
  readonly title: string;
  readonly lines: readonly string[];
}

export interface Calls {
  open(side: Side, files: readonly NamedBytes[]): Promise<Opened>;
  plan(side: Side, options: ViewOptions): Promise<Planned>;
  token(side: Side, rank: number, token: number): Promise<TokenPath>;
  save(side: Side): Promise<Uint8Array>;
  /** The other ways to exchange a side's routing. */
  strategies(side: Side): Promise<Strategies>;
  /** Compares the plans of both sides. */
  difference(): Promise<Difference>;
  detail(side: Side, subject: Subject): Promise<Detail>;
}

export type CallName = keyof Calls;

export interface Request {
  readonly id: number;
  readonly call: CallName;
  readonly args: readonly unknown[];
}

export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
}

export type Response =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly failure: Failure };
