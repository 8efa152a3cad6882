// What the digests of a plan cover. The plan id is the SHA-256 of ["FUSCOPLN", major], the core and the digests of all
// shards; the rest of the header is not part of it.

import { Packr } from 'msgpackr';
import { checkWhole, type Plan } from '../plan.ts';
import { type PlanSpec, type SpecFields, specFields } from '../spec.ts';
import { hex } from './bytes.ts';
import type { Sha256 } from './hash.ts';
import { FORMAT_MAJOR } from './layout.ts';

export const MAGIC = 'FUSCOPLN';
export const DIGEST_BYTES = 32;

/** Plain msgpack: no records, the shortest map heads, and nothing that becomes a float. */
export const packr = new Packr({ useRecords: false, variableMapSize: true, int64AsType: 'bigint' });

/** The options and decisions that the plan id covers, as the header stores them. */
export type Core = SpecFields & { rule: string; groups: number[] };

/** msgpack of `value`, in newly allocated memory. */
export function pack(value: unknown): Uint8Array {
  return Uint8Array.from(packr.pack(value));
}

/** A copy whose keys are in ASCII order, which is the order of a canonical map. */
export function sorted<T extends object>(map: T): T {
  return Object.fromEntries(Object.entries(map).sort(([a], [b]) => (a < b ? -1 : 1))) as T;
}

/** What the plan id covers in addition to the shards: the settled options and who forwards for whom. */
export function coreOf({ spec, decision }: Omit<Plan, 'shards'>): Core {
  return sorted({ ...specFields(spec), rule: decision.rule, groups: [...decision.groups] });
}

/** 32 bytes that are identical for identical options; ranks compare them before they plan together. */
export async function optionsDigest(spec: PlanSpec, sha256: Sha256): Promise<Uint8Array> {
  // Not part of a plan, but `auto` depends on it.
  const links = spec.ranksPerHost === 0 ? {} : { ranksPerHost: spec.ranksPerHost };
  // Not part of a plan either, but if one rank refused a plan because of it, the others would wait.
  const bound = spec.maxRows === 0 ? {} : { maxRows: spec.maxRows };
  return sha256([pack(sorted({ ...specFields(spec), ...links, ...bound }))]);
}

export async function idOf(
  core: Uint8Array,
  digests: readonly Uint8Array[],
  sha256: Sha256,
): Promise<Uint8Array> {
  return sha256([pack([MAGIC, FORMAT_MAJOR]), core, ...digests]);
}

export async function shardDigests(plan: Plan, sha256: Sha256): Promise<Uint8Array[]> {
  checkWhole(plan);
  const digests: Uint8Array[] = [];
  for (const shard of plan.shards) digests.push(Uint8Array.from(await sha256([shard.bytes])));
  return digests;
}

/** The plan id, 64 hex digits: SHA-256 over the core and the shards' digests. */
export async function planId(plan: Plan, sha256: Sha256): Promise<string> {
  return hex(await idOf(pack(coreOf(plan)), await shardDigests(plan, sha256), sha256));
}
