// When each link of each rank is predicted to be busy, by the cost model of tools/simulate.

import type { Plan } from '../../planner/plan.ts';
import { RESOURCE_NAMES } from '../simulate/advice.ts';
import { type Exchange, type Resource, type Stage, timeExchange, timeStage } from '../simulate/model.ts';
import { planExchanges } from '../simulate/strategies.ts';
import { type Constants, linkedRanks, type Topology } from '../simulate/topology.ts';

/** One link of one rank, busy during one stage. */
export interface Busy {
  readonly rank: number;
  readonly resource: Resource;
  readonly stage: string;
  readonly startUs: number;
  /** Time that the link alone needs; the stage lasts until its slowest link is done. */
  readonly us: number;
}

export interface Timeline {
  /** Predicted time of the whole exchange. */
  readonly us: number;
  /** The rank and the link for which all others wait longest. */
  readonly slowest: {
    readonly stage: string;
    readonly rank: number;
    readonly resource: Resource;
    us: number;
  };
  /** Ranks that are shown: all of a small group, else those whose links are busy longest. */
  readonly ranks: readonly number[];
  readonly busy: readonly Busy[];
}

export interface Prediction {
  /** The machine whose constants were used. */
  readonly machine: string;
  readonly nicGBps: number;
  readonly nvlinkGBps: number;
  readonly hbmGBps: number;
  readonly dispatch: Timeline;
  readonly combine: Timeline;
}

/** The most ranks whose links are listed. */
const TIMELINE_RANKS = 8;
/** Names of the resources in the report and the viewer. */
export const LINK_NAMES: Readonly<Record<Resource, string>> = {
  ...RESOURCE_NAMES,
  permute: 'memory (permutation)',
};

/** The part of a stage that one link of one rank carries, as a separate stage. */
function soloStages(stage: Stage, rank: number): [Resource, Stage][] {
  const one = (values: Float64Array) => Float64Array.of(values[rank]!);
  const { name, nic, nvlink, isScattered = false, hbm, permute } = stage;
  const found: [Resource, Stage][] = [];
  if (nic) found.push(['nic', { name, nic: { bytes: one(nic.bytes), peers: one(nic.peers) } }]);
  if (nvlink)
    found.push([
      'nvlink',
      { name, isScattered, nvlink: { bytes: one(nvlink.bytes), peers: one(nvlink.peers) } },
    ]);
  if (hbm) found.push(['hbm', { name, hbm: one(hbm) }]);
  if (permute) found.push(['permute', { name, permute: one(permute) }]);
  return found;
}

function timelineOf(exchange: Exchange, ranks: number, constants: Constants): Timeline {
  const { stages, us } = timeExchange(exchange, constants);
  const busy: Busy[] = [];
  const perRank = new Array<number>(ranks).fill(0);
  for (const [i, stage] of exchange.groups.flat().entries()) {
    for (let rank = 0; rank < ranks; rank++) {
      for (const [resource, solo] of soloStages(stage, rank)) {
        const time = timeStage(solo, constants).us;
        if (time === 0) continue;
        busy.push({ rank, resource, stage: stage.name, startUs: stages[i]!.startUs, us: time });
        perRank[rank] = Math.max(perRank[rank]!, time);
      }
    }
  }
  const busiest = perRank.map((_, rank) => rank).sort((a, b) => perRank[b]! - perRank[a]! || a - b);
  const shown = new Set(busiest.slice(0, TIMELINE_RANKS));
  const worst = stages.reduce((most, stage) => (stage.us > most.us ? stage : most), stages[0]!);
  return {
    us,
    slowest: { stage: worst.name, rank: worst.rank, resource: worst.resource, us: worst.us },
    ranks: [...shown].sort((a, b) => a - b),
    busy: busy.filter(({ rank }) => shown.has(rank)),
  };
}

/** Predicts dispatch and combine of a plan. */
export function predictTimeline(plan: Plan, topology: Topology): Prediction {
  const { name, constants } = topology;
  const { spec } = plan;
  const { dispatch, combine } = planExchanges(plan, linkedRanks(topology, spec.ranks));
  return {
    machine: name,
    nicGBps: constants.nicGBps,
    nvlinkGBps: constants.nvlinkGBps,
    hbmGBps: constants.hbmGBps,
    dispatch: timelineOf(dispatch, spec.ranks, constants),
    combine: timelineOf(combine, spec.ranks, constants),
  };
}
