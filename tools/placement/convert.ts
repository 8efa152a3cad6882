// Placements of other tools as maps from experts to ranks. They number physical slots, or list the experts of each rank.
// A plan knows the ranks of an expert but no slots, so several slots of one expert on one rank become one instance.
//
// P slots are assigned to R ranks in contiguous blocks; if R does not divide P, the first P % R ranks have one more.

import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES } from '../../planner/format/layout.ts';
import { type PlacementMap, remainderFirstOwner } from '../../planner/placement.ts';
import { axesOf, type Nested } from './nested.ts';
import type { PlacementLayer } from './placementFile.ts';

export interface Converted {
  readonly map: PlacementMap;
  /** Slots that were merged with another slot of their expert on their rank. */
  readonly merged: number;
  /** Physical slots that hold an expert. */
  readonly physical: number;
  /** Slots that hold no expert. */
  readonly unused: number;
  /** Slots of each expert. */
  readonly slots: readonly number[];
}

/** The target of a conversion. */
export interface Target {
  readonly ranks: number;
  /** Number of physical slots, if the file does not state it. Default: up to the highest that is used. */
  readonly slots?: number | undefined;
  readonly path: string;
}

/** More slots than instances: each may be empty. */
const MAX_SLOTS = 1 << 20;

function bad({ path }: Target, text: string, hint: string): FuscoError {
  return new FuscoError('E_PLACEMENT', text, { path, hint });
}

const SAME_FILE = 'Check that the file is complete, and that --layer and --format name what it holds.';

/** The ranks of each expert, a rank once for every slot there, as a map. */
function join(hosts: readonly (readonly number[])[], unused: number, target: Target): Converted {
  let merged = 0;
  const map = hosts.map((list, expert) => {
    const ranks = new Set(list);
    if (ranks.size === 0) throw bad(target, `expert ${expert} lives nowhere`, SAME_FILE);
    merged += list.length - ranks.size;
    const sorted = [...ranks].sort((a, b) => a - b);
    return sorted.length === 1 ? sorted[0]! : sorted;
  });
  const slots = hosts.map((list) => list.length);
  const physical = slots.reduce((sum, count) => sum + count, 0);
  if (map.length === 0) throw bad(target, 'it places no expert', SAME_FILE);
  return { map, merged, physical, unused, slots };
}

/** The ranks of each expert from (expert, rank) pairs, one for every slot that holds an expert. */
function hostsOf(pairs: Iterable<readonly [expert: number, rank: number]>, target: Target): number[][] {
  const hosts: number[][] = [];
  for (const [expert, rank] of pairs) {
    if (expert < 0 || expert >= MAX_INSTANCES) {
      throw bad(target, `expert ${expert} is not in 0..${MAX_INSTANCES - 1}`, SAME_FILE);
    }
    while (hosts.length <= expert) hosts.push([]);
    hosts[expert]!.push(rank);
  }
  return hosts;
}

/** From [physical] logical experts, -1 in empty slots. Throws E_PLACEMENT. */
function fromPhysical(layer: Nested, target: Target): Converted {
  const ids = layer as readonly number[];
  const pairs = ids.flatMap((expert, slot): [number, number][] => {
    if (expert < -1) throw bad(target, `slot ${slot} holds expert ${expert}`, 'Only -1 marks an empty slot.');
    return expert === -1 ? [] : [[expert, remainderFirstOwner(slot, ids.length, target.ranks)]];
  });
  return join(hostsOf(pairs, target), ids.length - pairs.length, target);
}

/** From [logical][replicas] slots, -1 if there is none. Throws E_PLACEMENT. */
function fromLogical(layer: Nested, target: Target): Converted {
  const lists = (layer as readonly (readonly number[])[]).map((list) => list.filter((slot) => slot !== -1));
  const used = new Set<number>();
  for (const [expert, list] of lists.entries()) {
    for (const slot of list) {
      if (slot < 0 || slot >= MAX_SLOTS) throw bad(target, `expert ${expert} in slot ${slot}`, SAME_FILE);
      if (used.has(slot))
        throw bad(target, `slot ${slot} holds two experts, the second is ${expert}`, SAME_FILE);
      used.add(slot);
    }
  }
  const highest = lists.flat().reduce((most, slot) => Math.max(most, slot), -1);
  const total = target.slots ?? highest + 1;
  if (total <= highest)
    throw bad(target, `slot ${highest} of ${total}`, 'Give --slots the number of all slots.');
  const pairs = lists.flatMap((list, expert) =>
    list.map((slot): [number, number] => [expert, remainderFirstOwner(slot, total, target.ranks)]),
  );
  const hosts = hostsOf(pairs, target);
  // Experts without a slot at the end of the list are missing as well.
  while (hosts.length < lists.length) hosts.push([]);
  return join(hosts, total - used.size, target);
}

/** From the experts that each rank holds. Throws E_PLACEMENT. */
function fromRanks(layer: Nested, target: Target): Converted {
  const held = layer as readonly (readonly number[])[];
  if (held.length !== target.ranks) {
    throw bad(
      target,
      `it has ${held.length} ranks, not ${target.ranks}`,
      'Give --ranks as many as the file has.',
    );
  }
  const pairs = held.flatMap((experts, rank) =>
    experts.filter((expert) => expert !== -1).map((expert): [number, number] => [expert, rank]),
  );
  return join(hostsOf(pairs, target), held.flat().length - pairs.length, target);
}

/** From [ranks][experts] numbers of the experts on their rank, -1 elsewhere. Throws E_PLACEMENT. */
function fromExpertMap(layer: Nested, target: Target): Converted {
  const rows = layer as readonly (readonly number[])[];
  const held = rows.map((row, rank) => {
    const experts = row.flatMap((local, expert) => (local === -1 ? [] : [{ local, expert }]));
    const locals = new Set(experts.map(({ local }) => local));
    const isDense = experts.every(({ local }) => local >= 0 && local < experts.length);
    if (isDense && locals.size === experts.length) return experts.map(({ expert }) => expert);
    const text = `rank ${rank}: its experts are not numbered 0..${experts.length - 1}, each once`;
    throw bad(
      target,
      text,
      'A map of experts is [ranks][experts]: the number of the expert on the rank, or -1.',
    );
  });
  return fromRanks(held, target);
}

/** From [experts] ranks. Throws E_PLACEMENT. */
function fromOwners(layer: Nested, target: Target): Converted {
  const owners = layer as readonly number[];
  const outside = owners.findIndex((rank) => rank < 0 || rank >= target.ranks);
  if (outside >= 0) {
    const text = `expert ${outside} on rank ${owners[outside]} of ${target.ranks}`;
    throw bad(target, text, 'Give --ranks as many as the placement was made for.');
  }
  const pairs = owners.map((rank, expert): [number, number] => [expert, rank]);
  return join(hostsOf(pairs, target), 0, target);
}

const CONVERTERS = {
  phy2log: fromPhysical,
  log2phy: fromLogical,
  ascend: fromRanks,
  expert_map: fromExpertMap,
  expert_to_ep_rank: fromOwners,
} as const;

/** The map of one layer. Throws E_PLACEMENT unless it is a placement on `target.ranks` ranks. */
export function convertLayer({ format, layer }: PlacementLayer, target: Target): Converted {
  const isRagged = axesOf(layer) === 0;
  if (isRagged) throw bad(target, 'it holds numbers and lists side by side', SAME_FILE);
  return CONVERTERS[format](layer, target);
}

/** Throws E_PLACEMENT unless `logcnt` contains the number of slots of each expert. */
export function checkReplicas(counts: Nested, found: readonly number[], target: Target): void {
  const hint = 'Give the replica counts of the same layer of the same placement.';
  const at = found.findIndex((replicas, expert) => counts[expert] !== replicas);
  if (at >= 0)
    throw bad(target, `expert ${at} has ${String(counts[at])} replicas, the map ${found[at]}`, hint);
  if (counts.length !== found.length)
    throw bad(target, `${counts.length} experts, the map has ${found.length}`, hint);
}
