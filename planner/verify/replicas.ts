// Replicas: every entry goes to the instance that the rule of the plan gives (docs/replicas.md).

import type { Shard } from '../format/shard.ts';
import { candidatesFor } from '../placement.ts';
import { instanceCounts } from '../quotas.ts';
import type { PlanSpec } from '../spec.ts';
import { halt } from './halt.ts';

/** Checks of a single shard: the instance of each entry under `local`, the order of instances under `quota-1`. */
export function checkReplicas(shard: Shard, spec: PlanSpec, rank: number): void {
  if (spec.replicas === 'local') checkLocal(shard, spec, rank);
  if (spec.replicas === 'quota-1') checkOrder(shard, spec, rank);
}

function checkLocal({ entryInstance, topk, instances }: Shard, spec: PlanSpec, rank: number): void {
  const { instanceExpert } = spec.placement;
  const { first, count, list } = candidatesFor(spec.placement, rank, spec.ranksPerNode);
  for (let entry = 0; entry < entryInstance.length; entry++) {
    const i = entryInstance[entry]!;
    if (i >= instances) continue;
    const expert = instanceExpert[i]!;
    const wanted = list[first[expert]! + (Math.floor(entry / topk) % count[expert]!)]!;
    if (i === wanted) continue;
    halt('E_ENTRY', rank, `/entries/${entry}`, `instance ${i}, the rule local gives ${wanted}`, i, wanted);
  }
}

function checkOrder({ entryInstance, instances }: Shard, spec: PlanSpec, rank: number): void {
  const { instanceExpert } = spec.placement;
  const last = new Uint16Array(spec.experts);
  for (let entry = 0; entry < entryInstance.length; entry++) {
    const i = entryInstance[entry]!;
    if (i >= instances) continue;
    const expert = instanceExpert[i]!;
    if (i < last[expert]!) {
      const text = `instance ${i} after instance ${last[expert]} of expert ${expert}`;
      halt('E_ENTRY', rank, `/entries/${entry}`, text, i, last[expert]!);
    }
    last[expert] = i;
  }
}

/** Entries of each instance, including dropped ones: u32[instances]. */
export function countEntries({ entryInstance, instances }: Shard): Uint32Array {
  const counts = new Uint32Array(instances);
  for (const i of entryInstance) if (i < instances) counts[i]!++;
  return counts;
}

/**
 * The quotas of all ranks are those that follow from their entries per expert.
 *
 * @param counts u32[ranks, instances], from countEntries
 */
export function checkQuotas(counts: Uint32Array, spec: PlanSpec): void {
  const { ranks, experts, placement } = spec;
  const { instances, instanceExpert } = placement;
  const ofExperts = new Uint32Array(ranks * experts);
  for (let rank = 0; rank < ranks; rank++) {
    for (let i = 0; i < instances; i++) {
      ofExperts[rank * experts + instanceExpert[i]!]! += counts[rank * instances + i]!;
    }
  }
  const quotas = instanceCounts(spec, ofExperts);
  const at = quotas.findIndex((rows, i) => rows !== counts[i]);
  if (at < 0) return;
  const [rank, i] = [Math.floor(at / instances), at % instances];
  const [value, limit] = [counts[at]!, quotas[at]!];
  const text = `${value} entries for instance ${i}, the rule quota-1 gives ${limit}`;
  halt('E_ENTRY', rank, `/quotas/${i}`, text, value, limit);
}
