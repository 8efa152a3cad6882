// Rows whose elements identify their token, and audits of them.

import {
  type AuditLayout,
  auditLayouts,
  type NativeAudit,
  openAudit,
} from '../../../executor/native/audit.ts';
import { attempt } from '../../../executor/native/errors.ts';
import { loadPlanner } from '../../../planner/node.ts';
import type { PlanOptions } from '../../../planner/spec.ts';
import type { PlainRouting } from '../../support/obviousPlan.ts';
import { toTables } from '../../support/workloads.ts';
import type { Row } from './libraries.ts';

export const HIDDEN = 8;

/** A row of float32 that no other token and no other step has. */
export function rowOf(source: number, token: number, step = 0): Float32Array {
  return Float32Array.from(
    { length: HIDDEN },
    (_, i) => (1 + 1000 * step + source + token / 256) * (i % 2 === 0 ? 1 + i / 16 : -1 - i / 32),
  );
}

export function join(rows: readonly Float32Array[]): Float32Array {
  const joined = new Float32Array(rows.length * HIDDEN);
  rows.forEach((row, i) => {
    joined.set(row, i * HIDDEN);
  });
  return joined;
}

/** The rows of every rank. */
export function inputOf(routing: PlainRouting, step = 0): Float32Array[] {
  return routing.map((tokens, source) => join(tokens.map((_, token) => rowOf(source, token, step))));
}

/** A receive buffer; rows that may hold anything hold something. */
export function bufferOf(rows: readonly Row[]): Float32Array {
  return join(
    rows.map((row, i) => {
      if (row === 'zero') return new Float32Array(HIDDEN);
      return row === 'any' ? new Float32Array(HIDDEN).fill(-7 - i) : rowOf(row.source, row.token);
    }),
  );
}

/** An audit of a routing with those rows as its input. */
export async function auditOf(
  routing: PlainRouting,
  options: Omit<PlanOptions, 'ranks'>,
  layout: string | AuditLayout,
): Promise<NativeAudit> {
  const planner = await loadPlanner();
  const topk = routing.flat()[0]!.length;
  const plan = planner.planAll(toTables(routing, topk), { ...options, ranks: routing.length });
  const chosen = typeof layout === 'string' ? auditLayouts()[layout]! : layout;
  const audit = await openAudit(plan, chosen);
  const rows = inputOf(routing);
  attempt(() => audit.setInput({ dtype: 'f32', rowBytes: 4 * HIDDEN, rows, previous: inputOf(routing, 1) }));
  return audit;
}
