// One sentence about a prediction: the bottleneck, what would help, and by how much.

import type { VerifiedPlan } from '../../planner/plan.ts';
import { sum } from '../../planner/totals.ts';
import { type Comparison, type Prediction, predict } from './compare.ts';
import type { Exchange, Resource, Stage, TimedStage } from './model.ts';
import { planExchanges } from './strategies.ts';
import { type Constants, linkedRanks, type Topology } from './topology.ts';

/** Gains below this share of the time are not worth a recommendation. */
const WORTH = 0.01;

export const RESOURCE_NAMES: Readonly<Record<Resource, string>> = {
  nic: 'NIC',
  nvlink: 'NVLink',
  hbm: 'memory',
  permute: 'permutation',
  none: 'nothing',
};

/** The constant that is the rate of each resource. */
const RATES: Readonly<Record<Exclude<Resource, 'none'>, keyof Constants>> = {
  nic: 'nicGBps',
  nvlink: 'nvlinkGBps',
  hbm: 'hbmGBps',
  permute: 'hbmGBps',
};

/** The longest stage of a prediction, for which all ranks wait. */
export function bindingStage({ dispatch, combine }: Prediction): TimedStage {
  return [...dispatch.stages, ...combine.stages].reduce((worst, stage) =>
    stage.us > worst.us ? stage : worst,
  );
}

/** `hier, rotate`. */
export function strategyName({ strategy, rule }: Pick<Prediction, 'strategy' | 'rule'>): string {
  return rule === 'none' ? strategy : `${strategy}, ${rule}`;
}

/** Options of `fusco plan` that select a strategy; empty if there is no such plan. */
export function planOptionsOf({ strategy, rule, ranksPerNode }: Prediction): string {
  if (strategy === 'unfused') return '';
  if (strategy === 'flat fused') return '--strategy flat';
  if (strategy === 'once per rank') return '--strategy hier --ranks-per-node 1';
  return `--strategy hier --ranks-per-node ${ranksPerNode} --balance ${rule}`;
}

/** `12 %` */
function share(part: number): string {
  return `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %`;
}

/** The same exchange with every rank at the mean of its stage. */
function evened({ groups, slices }: Exchange): Exchange {
  const even = (values: Float64Array) => values.map(() => sum(values) / values.length);
  const level = ({ nic, nvlink, hbm, permute, ...stage }: Stage): Stage => ({
    ...stage,
    ...(nic && { nic: { ...nic, bytes: even(nic.bytes) } }),
    ...(nvlink && { nvlink: { ...nvlink, bytes: even(nvlink.bytes) } }),
    ...(hbm && { hbm: even(hbm) }),
    ...(permute && { permute: even(permute) }),
  });
  return { groups: groups.map((group) => group.map(level)), slices };
}

/**
 * The gain for the plan's exchanges, as fractions of their time, from even loads and from a resource that is twice as
 * fast.
 */
function gains(plan: VerifiedPlan, mine: Prediction, resource: Resource, topology: Topology) {
  const { dispatch, combine } = planExchanges(plan, linkedRanks(topology, plan.spec.ranks));
  const gain = (us: number) => 1 - us / mine.us;
  const even = predict({ dispatch: evened(dispatch), combine: evened(combine) }, topology);
  if (resource === 'none') return { even: gain(even.us), faster: 0 };
  const rate = RATES[resource];
  const constants = { ...topology.constants, [rate]: 2 * topology.constants[rate] };
  const faster = predict({ dispatch, combine }, { ...topology, constants });
  return { even: gain(even.us), faster: gain(faster.us) };
}

/**
 * The bottleneck of the plan, and what would help most: another strategy, else an even load, else a faster resource.
 *
 * @returns one sentence, without a line break
 */
export function adviceOf(
  plan: VerifiedPlan,
  { predictions, own, best }: Comparison,
  topology: Topology,
): string {
  const mine = predictions[own]!;
  if (mine.us === 0) return 'Nothing moves between ranks, so there is no bottleneck.';
  const stage = bindingStage(mine);
  const name = RESOURCE_NAMES[stage.resource];
  const binds = `Bound by the ${name} of rank ${stage.rank} (${stage.name})`;
  const faster = predictions[best]!;
  if (1 - faster.us / mine.us >= WORTH) {
    const how = planOptionsOf(faster);
    const way = how === '' ? 'no fusion' : `${strategyName(faster)} (${how})`;
    return `${binds}; ${way} would take ${share(1 - faster.us / mine.us)} less time.`;
  }
  const gain = gains(plan, mine, stage.resource, topology);
  if (gain.even >= WORTH && gain.even >= gain.faster / 4) {
    return `${binds}; this is the fastest strategy here, and an even load of all ranks (placement, replicas) would take up to ${share(gain.even)} less.`;
  }
  return `${binds}; this is the fastest strategy here, and ${name === 'NIC' ? 'a NIC' : name} twice as fast would take ${share(gain.faster)} less.`;
}
