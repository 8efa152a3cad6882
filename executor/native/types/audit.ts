// Audits in the native addon.

import type { Dtype } from '../../../planner/spec.ts';
import type { Memory } from '../../backends/types.ts';

/** Where a library puts rows, and how it adds them; native/include/fusco_audit.h describes the fields. */
export interface AuditLayout {
  readonly per: 'entry' | 'token';
  readonly blocks: 'expert' | 'source' | 'one';
  readonly order: 'sorted' | 'any';
  /** Rows; 0: the align of the plan. */
  readonly align: number;
  readonly padding: 'zero' | 'any';
  readonly tail: 'zero' | 'any';
  /** Rows of every block; 0: as many as it needs. */
  readonly slots: number | 'equal';
  readonly accumulate: 'f32' | 'payload';
  readonly partials: number;
}

/** Rows that were dispatched. They stay referenced, and must not change, until the audit is closed or gets others. */
export interface NativeAuditInput {
  readonly dtype: Dtype | 'bytes';
  readonly rowBytes: number;
  /** [ranks] */
  readonly rows: readonly Memory[];
  /** [ranks]: those of the step before. */
  readonly previous?: readonly Memory[] | undefined;
}

/** What is wrong with a row; docs/audit.md describes the kinds. */
export type AuditKind =
  | 'other-token'
  | 'zeros'
  | 'stale'
  | 'partial'
  | 'rounding'
  | 'nan'
  | 'values'
  | 'padding'
  | 'missing'
  | 'extra'
  | 'duplicate'
  | 'term-missing'
  | 'term-twice'
  | 'unweighted'
  | 'scaled';

/** A row that is wrong. -1: none, or unknown. */
export interface NativeDifference {
  readonly kind: AuditKind;
  /** Slot of a receive buffer, or token of a combine. */
  readonly row: number;
  readonly source: number;
  readonly token: number;
  readonly k: number;
  readonly found: 'unknown' | 'zeros' | 'token' | 'previous' | 'nothing';
  readonly foundSource: number;
  readonly foundToken: number;
  /** Significant bits that explain `rounding`; 0 otherwise. */
  readonly precision: number;
  /** Of `scaled`; 0 otherwise. */
  readonly factor: number;
  readonly firstByte: number;
  readonly endByte: number;
}

/** What an audit of one rank found. */
export interface NativeAuditReport {
  readonly rows: number;
  readonly wrong: number;
  readonly counts: Readonly<Partial<Record<AuditKind, number>>>;
  /** The first `room` of them. */
  readonly differences: readonly NativeDifference[];
  /** Combine: orders of addition that give the bits of all rows within the bound. */
  readonly orders: readonly string[];
  readonly reordered: number;
  readonly largestError: number;
}

export interface NativeAudit {
  rows(rank: number): number;
  setInput(input: NativeAuditInput): void;
  /** [rows, 3]: source rank, token, k. */
  origins(rank: number, rows: number): Int32Array;
  dispatch(call: {
    readonly rank: number;
    readonly received: Memory;
    readonly room: number;
  }): NativeAuditReport;
  combine(call: {
    readonly rank: number;
    readonly combined: Memory;
    readonly weights?: Memory | undefined;
    readonly outputs?: readonly Memory[] | undefined;
    readonly order?: string | undefined;
    readonly room: number;
  }): NativeAuditReport;
  close(): void;
}
