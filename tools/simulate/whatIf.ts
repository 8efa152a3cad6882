// Plans a recording under several placements, step by step, and computes when moving the experts' weights to another
// placement pays off.

import { makePlacement, type Placement, type PlacementMap } from '../../planner/placement.ts';
import type { Planner } from '../../planner/planner.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import { sum } from '../../planner/totals.ts';
import { maxOverMean } from '../figures/summary.ts';
import { predict } from './compare.ts';
import { type PlanLoads, planLoads } from './loads.ts';
import { planExchanges } from './strategies.ts';
import { checkFit, linkedRanks, type Topology } from './topology.ts';

export interface NamedPlacement {
  readonly name: string;
  /** Empty: contiguous blocks. */
  readonly map: PlacementMap;
}

/** One step under one placement, or all of its steps together. */
export interface StepFigures {
  /** Rows of the busiest rank divided by the mean; over all steps: the largest value. */
  readonly rankMaxOverMean: number;
  /** Payload bytes between ranks that NVLink joins, and between others, of one dispatch per step. */
  readonly intraNodeBytes: number;
  readonly interNodeBytes: number;
  /** Predicted time of one dispatch and one combine per step. */
  readonly us: number;
}

/** The cost of changing from the first placement to another one. */
export interface Move {
  /** Instances that a rank did not host before. */
  readonly instances: number;
  readonly bytes: number;
  /** Predicted time of moving them. */
  readonly us: number;
  /** Number of tokens of all ranks after which the exchanges have saved this time; null if they never do. */
  readonly breakEvenTokens: number | null;
}

export interface PlacementFigures {
  readonly name: string;
  readonly replicas: number;
  readonly steps: readonly StepFigures[];
  readonly overall: StepFigures;
  /** All placements but the first, if the size of an expert is known. */
  readonly move?: Move;
}

export interface WhatIf {
  /** Numbers of the steps. */
  readonly steps: readonly number[];
  /** Tokens of all ranks in each step. */
  readonly tokens: readonly number[];
  readonly placements: readonly PlacementFigures[];
}

/** A step of a recording, with the options of its plan but the placement. */
export interface PlannedStep {
  readonly step: number;
  readonly tables: readonly RoutingTable[];
  readonly options: PlanOptions;
}

/** Rows of all ranks over one kind of link. */
function rowsOver(link: 'nvlink' | 'nic', { inter, intra }: PlanLoads): number {
  return sum(inter[link].out) + sum(intra[link].out);
}

function figuresOf(
  planner: Planner,
  { tables, options }: PlannedStep,
  map: PlacementMap,
  topology: Topology,
): StepFigures {
  const plan = planner.planAll(tables, { ...options, placement: map });
  const { spec } = plan;
  checkFit(topology, spec.ranks);
  const joined = linkedRanks(topology, spec.ranks);
  const loads = planLoads(plan, joined);
  return {
    rankMaxOverMean: maxOverMean([...loads.received]),
    intraNodeBytes: rowsOver('nvlink', loads) * spec.rowBytes,
    interNodeBytes: rowsOver('nic', loads) * spec.rowBytes,
    us: predict(planExchanges(plan, joined), topology).us,
  };
}

function overallOf(steps: readonly StepFigures[]): StepFigures {
  const total = (key: keyof StepFigures) => sum(steps.map((step) => step[key]));
  return {
    rankMaxOverMean: Math.max(0, ...steps.map((step) => step.rankMaxOverMean)),
    ...{ intraNodeBytes: total('intraNodeBytes'), interNodeBytes: total('interNodeBytes'), us: total('us') },
  };
}

/**
 * The instances that another placement adds, each copied from a host of its expert: the lowest one on the same node, else
 * number `rank` % hosts, so that no host sends to all.
 */
function moveOf(from: Placement, to: Placement, expertBytes: number, topology: Topology) {
  const joined = linkedRanks(topology, to.ranks);
  const nodeOf = (rank: number) => Math.floor(rank / joined);
  const hosts: number[][] = Array.from({ length: from.experts }, () => []);
  from.instanceExpert.forEach((expert, i) => void hosts[expert]!.push(from.instanceRank[i]!));
  const links = () => ({ out: new Array<number>(to.ranks).fill(0), in: new Array<number>(to.ranks).fill(0) });
  const [intra, inter] = [links(), links()];
  let instances = 0;
  to.instanceExpert.forEach((expert, i) => {
    const rank = to.instanceRank[i]!;
    const known = hosts[expert]!;
    if (known.includes(rank)) return;
    const near = known.find((host) => nodeOf(host) === nodeOf(rank));
    const link = near === undefined ? inter : intra;
    link.out[near ?? known[rank % known.length]!]!++;
    link.in[rank]!++;
    instances++;
  });
  const { nicGBps, nvlinkGBps } = topology.constants;
  const busiest = ({ out, in: received }: ReturnType<typeof links>) => Math.max(...out, ...received);
  // A GB/s moves 1000 bytes in a microsecond.
  const us = Math.max(busiest(inter) / nicGBps, busiest(intra) / nvlinkGBps) * (expertBytes / 1000);
  return { instances, bytes: instances * expertBytes, us };
}

/**
 * Plans every step under every placement.
 *
 * @param steps requested one at a time
 * @param expertBytes bytes of one expert's weights; 0 if unknown
 * @throws FuscoError what planAll throws; E_OPTION if a plan does not fit the topology
 */
export async function whatIf(
  steps: AsyncIterable<PlannedStep>,
  placements: readonly NamedPlacement[],
  { planner, topology, expertBytes }: { planner: Planner; topology: Topology; expertBytes: number },
): Promise<WhatIf> {
  const figures: StepFigures[][] = placements.map(() => []);
  const numbers: number[] = [];
  const tokens: number[] = [];
  let last: PlannedStep | undefined;
  for await (const step of steps) {
    placements.forEach(({ map }, i) => void figures[i]!.push(figuresOf(planner, step, map, topology)));
    numbers.push(step.step);
    tokens.push(sum(step.tables.map((table) => table.tokens)));
    last = step;
  }
  const { experts, ranks } = last!.options;
  const made = placements.map(({ map }) => makePlacement(experts, ranks, map));
  const overall = figures.map(overallOf);
  const move = (i: number): { move?: Move } => {
    if (i === 0 || expertBytes === 0) return {};
    const moved = moveOf(made[0]!, made[i]!, expertBytes, topology);
    const savedPerToken = (overall[0]!.us - overall[i]!.us) / sum(tokens);
    const breakEvenTokens =
      moved.us === 0 ? 0 : savedPerToken > 0 ? Math.ceil(moved.us / savedPerToken) : null;
    return { move: { ...moved, breakEvenTokens } };
  };
  return {
    steps: numbers,
    tokens,
    placements: placements.map(({ name }, i) => ({
      ...{ name, replicas: made[i]!.instances - experts },
      ...{ steps: figures[i]!, overall: overall[i]! },
      ...move(i),
    })),
  };
}
