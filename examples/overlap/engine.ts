// What runs the stages of two half batches, and the batch itself.

import type { RoutingTable } from 'fusco';
import type { Span } from './timeline.ts';

export interface Sizes {
  readonly ranks: number;
  /** Tokens of one rank in one half. */
  readonly tokens: number;
  readonly topk: number;
  readonly experts: number;
  /** float32 elements of a row. */
  readonly hidden: number;
}

/**
 * Stages of the two halves. A promise settles when later stages may be started: when the stage is done, or, where stages
 * run on a device, when it is enqueued behind those that it needs.
 */
export interface Engine extends Disposable {
  dispatch(half: number): Promise<void>;
  experts(half: number): Promise<void>;
  combine(half: number): Promise<void>;
  /** Waits for everything and gives the spans since the last call. */
  finish(): Promise<Span[]>;
  /** f32 [tokens, hidden] of every half and rank: what combine wrote. */
  results(): readonly Float32Array[];
}

/** One half after the other, stage by stage. */
export async function runInTurn(engine: Engine): Promise<Span[]> {
  for (const half of [0, 1]) {
    await engine.dispatch(half);
    await engine.experts(half);
    await engine.combine(half);
  }
  return engine.finish();
}

/** The second half is dispatched while the experts work on the first, which goes home while they work on the second. */
export async function runOverlapped(engine: Engine): Promise<Span[]> {
  const dispatched = [engine.dispatch(0), engine.dispatch(1)];
  const combined: Promise<void>[] = [];
  for (const half of [0, 1]) {
    await dispatched[half];
    await engine.experts(half);
    combined.push(engine.combine(half));
  }
  await Promise.all(combined);
  return engine.finish();
}

/** Routing of one half: token t of a rank goes to topk consecutive experts from a place that a hash of it says. */
export function routingOf({ ranks, tokens, topk, experts }: Sizes, half: number): RoutingTable[] {
  return Array.from({ length: ranks }, (_, rank) => ({
    ids: Int32Array.from({ length: tokens * topk }, (_, entry) => {
      const token = (half * ranks + rank) * tokens + Math.floor(entry / topk);
      return ((Math.imul(token, 0x9e3779b1) >>> 16) + (entry % topk)) % experts;
    }),
    tokens,
    topk,
  }));
}

/** Tokens of one rank: every row differs. */
export function tokensOf({ tokens, hidden }: Sizes, half: number, rank: number): Float32Array {
  return Float32Array.from(
    { length: tokens * hidden },
    (_, i) => ((Math.imul(i + 1, 0x85ebca6b) >>> 12) % 2048) / 1024 - 1 + half / 4 + rank / 16,
  );
}
