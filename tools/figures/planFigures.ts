// All data of a plan that the report and the viewer show, as plain data that a worker can send to its page.

import { SLOT_DROPPED } from '../../planner/format/layout.ts';
import type { Plan } from '../../planner/plan.ts';
import { columnSums, sum } from '../../planner/totals.ts';
import { defaultTopology, linkedRanks, type Topology } from '../simulate/topology.ts';
import { findOffenders, type Offender } from './extremes.ts';
import { type Loads, loadOf } from './load.ts';
import { type Prediction, predictTimeline } from './prediction.ts';
import type { Strategies } from './strategyRows.ts';
import { type Summary, summarize, summaryOnMachine } from './summary.ts';
import { directLengths, forwardLengths, type Lengths, type Spread, spreadOf } from './tokens.ts';

/** The most rows and columns of the heat map; ranks of larger groups share cells. */
const MAX_CELLS = 64;

export interface Heat {
  /** Consecutive ranks that share a row or column: 1, or whole nodes of a large group. */
  readonly ranksPerCell: number;
  /** Rows and columns. */
  readonly cells: number;
  /** Cells that lie on one node; 0 if a cell is a node or more. */
  readonly cellsPerNode: number;
  /** Payload bytes [from, to], between ranks of one node, and between nodes. */
  readonly intra: number[][];
  readonly inter: number[][];
}

/** Figures of every plan that could be read, including broken ones. */
export interface PlanFigures extends Loads {
  readonly heat: Heat;
  readonly totalBytes: { readonly own: number; readonly intra: number; readonly inter: number };
}

/** Figures that follow from the entries, which can be read only in a verified plan. */
export interface TokenFigures {
  readonly spread: Spread;
  readonly direct: Lengths;
  /** Hierarchical plans only. */
  readonly forwarded?: Lengths;
  readonly prediction: Prediction;
}

export interface Figures extends PlanFigures {
  readonly tokens?: TokenFigures;
  /** Predicted with a planner, which takes longer than all others together; they may therefore be added later. */
  readonly strategies?: Strategies;
  readonly offenders: readonly Offender[];
}

/** Ranks that share a cell of the heat map: one, or as many whole nodes as it takes. */
function cellSize(ranks: number, ranksPerNode: number): number {
  if (ranks <= MAX_CELLS) return 1;
  const nodes = ranks / ranksPerNode;
  return ranksPerNode * Math.ceil(nodes / MAX_CELLS);
}

function heatOf({ ranks, ranksPerNode, traffic }: Summary): Heat {
  const ranksPerCell = cellSize(ranks, ranksPerNode);
  const cells = Math.ceil(ranks / ranksPerCell);
  const fold = (bytes: readonly (readonly number[])[]) => {
    const folded = Array.from({ length: cells }, () => new Array<number>(cells).fill(0));
    for (const [from, row] of bytes.entries()) {
      const into = folded[Math.floor(from / ranksPerCell)]!;
      for (const [to, n] of row.entries()) into[Math.floor(to / ranksPerCell)]! += n;
    }
    return folded;
  };
  return {
    ranksPerCell,
    cells,
    cellsPerNode: ranksPerCell === 1 ? ranksPerNode : 0,
    intra: fold(traffic.intraNodeBytes),
    inter: fold(traffic.interNodeBytes),
  };
}

/** Expert instances in the order of the plan: "expert 7", with its rank if the expert has replicas. */
function instanceLabels({ spec }: Plan): string[] {
  const { instanceExpert, instanceRank, instances, experts } = spec.placement;
  return Array.from({ length: instances }, (_, i) => {
    const name = `expert ${instanceExpert[i]}`;
    return instances === experts ? name : `${name} on rank ${instanceRank[i]}`;
  });
}

function planFigures(plan: Plan, summary: Summary, joined: number): PlanFigures {
  const { traffic: _, ...rest } = summary;
  const linked = summaryOnMachine(summary, joined);
  const { intraNodeBytes, interNodeBytes } = linked.traffic;
  const realRows = summary.expertCounts.map(sum);
  const own = sum(intraNodeBytes.map((row, rank) => row[rank]!));
  return {
    summary: rest,
    joined,
    heat: heatOf(linked),
    experts: loadOf(
      summary.expertCounts.flat(),
      instanceLabels(plan),
      [...plan.spec.placement.instanceExpert].map(String),
    ),
    ranks: loadOf(
      realRows,
      realRows.map((_, rank) => `rank ${rank}`),
    ),
    nicOut: interNodeBytes.map(sum),
    nicIn: columnSums(interNodeBytes),
    totalBytes: { own, intra: sum(intraNodeBytes.map(sum)) - own, inter: sum(interNodeBytes.map(sum)) },
  };
}

function tokenFigures(plan: Plan, topology: Topology): TokenFigures {
  return {
    spread: spreadOf(plan),
    direct: directLengths(plan),
    ...(plan.spec.strategy === 'hier' ? { forwarded: forwardLengths(plan) } : {}),
    prediction: predictTimeline(plan, topology),
  };
}

/** Dropped entries of each expert instance. */
function droppedRows({ shards, spec }: Plan): number[] {
  const dropped = new Array<number>(spec.placement.instances).fill(0);
  for (const { entrySlot, entryInstance } of shards) {
    for (const [entry, slot] of entrySlot.entries()) {
      if (slot === SLOT_DROPPED) dropped[entryInstance[entry]!]!++;
    }
  }
  return dropped;
}

/**
 * All figures of a plan except its strategies. Figures that need its entries are omitted unless the plan was verified.
 */
export function figuresOf(
  plan: Plan,
  isVerified: boolean,
  topology: Topology = defaultTopology(plan.spec),
): Figures {
  const summary = summarize(plan);
  const joined = linkedRanks(topology, plan.spec.ranks);
  const base = planFigures(plan, summary, joined);
  const tokens = isVerified ? tokenFigures(plan, topology) : undefined;
  const dropped = isVerified && summary.droppedEntries > 0 ? droppedRows(plan) : [];
  return {
    ...base,
    ...(tokens === undefined ? {} : { tokens }),
    offenders: findOffenders(base, summaryOnMachine(summary, joined).traffic, dropped),
  };
}
