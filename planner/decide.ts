// What all ranks decide from the facts, with the same result: who forwards, and, for `auto`, whether to forward.

import { balance } from './balance.ts';
import { FuscoError } from './errors.ts';
import { type Facts, rowsPerNode } from './facts.ts';
import type { Decision, Plan } from './plan.ts';
import { instanceCounts } from './quotas.ts';
import { considersOncePerRank, oncePerRank, type PlanSpec, type Strategy } from './spec.ts';
import { type Forwarding, LinkTotals, type OnRows, visitTraffic } from './traffic.ts';

/**
 * Effective rates of the cost model in GB/s, per rank and direction (docs/simulate.md): integers, so that the decision is
 * the same everywhere. `fusco simulate` uses other rates; `auto` only compares candidates.
 */
const NVLINK_RATE = 370;
const NIC_RATE = 43;

const FLAT: Decision = { strategy: 'flat', rule: 'none', groups: new Uint16Array(0), reason: '' };

/**
 * Rows of the busiest rank between machines (on its NIC) and inside its machine (on NVLink), each in the busier
 * direction.
 */
interface BusiestRank {
  readonly interRows: number;
  readonly intraRows: number;
  /** Time of the busiest rank in units of row bytes / (NVLINK_RATE x NIC_RATE). */
  readonly cost: number;
}

function busiest(inter: LinkTotals, intra: LinkTotals): BusiestRank {
  let worst: BusiestRank = { interRows: 0, intraRows: 0, cost: -1 };
  for (const rank of inter.out.keys()) {
    const interRows = inter.rows(rank);
    const intraRows = intra.rows(rank);
    const cost = Math.max(interRows * NVLINK_RATE, intraRows * NIC_RATE);
    if (cost > worst.cost) worst = { interRows, intraRows, cost };
  }
  return worst;
}

/** Kept rows from every rank to every rank. */
function pairRows(spec: PlanSpec, counts: Uint32Array): (from: number, to: number) => number {
  const { ranks, capacity, placement } = spec;
  const { instances, instanceRank } = placement;
  const rows = new Float64Array(ranks * ranks);
  for (let i = 0; i < instances; i++) {
    let before = 0;
    for (let from = 0; from < ranks; from++) {
      const asked = counts[from * instances + i]!;
      const kept = capacity === 0 ? asked : Math.min(asked, Math.max(0, capacity - before));
      before += asked;
      rows[from * ranks + instanceRank[i]!]! += kept;
    }
  }
  return (from, to) => rows[from * ranks + to]!;
}

/** A candidate, its options, and the load of its busiest rank. Rows that stay on a rank use no link. */
interface Candidate {
  readonly name: string;
  readonly spec: Plan['spec'];
  readonly decision: Decision;
  readonly busiest: BusiestRank;
}

/**
 * The busiest rank of a candidate. Links between ranks of one machine are NVLink, independently of the candidate's nodes.
 */
function busiestRank(
  spec: PlanSpec,
  rows: (from: number, to: number) => number,
  forwarding?: Forwarding,
): BusiestRank {
  const [inter, intra] = [new LinkTotals(spec.ranks), new LinkTotals(spec.ranks)];
  const hostOf = (rank: number) => Math.floor(rank / spec.ranksPerHost);
  const between: OnRows = (from, to, count) =>
    (hostOf(from) === hostOf(to) ? intra : inter).add(from, to, count);
  visitTraffic(spec, rows, forwarding, { inter: between, intra: intra.add });
  return busiest(inter, intra);
}

/** A hierarchical plan's settled spec, decision and rows per node. Throws E_FACTS if the facts lack those rows. */
function hierarchical(spec: PlanSpec, facts: Facts) {
  const nodeRows = rowsPerNode(facts, spec);
  if (nodeRows?.length !== spec.ranks * spec.nodes || spec.balance === 'none') {
    const what = spec.ranksPerNode === 1 ? 'rank' : 'node';
    throw new FuscoError('E_FACTS', `the ${spec.strategy} strategy needs each rank's rows per ${what}`);
  }
  const { rule, groups } = balance(spec.balance, spec, nodeRows);
  const decision: Decision = { strategy: 'hier', rule, groups, reason: '' };
  return { spec: settledSpec(spec, 'hier'), decision, nodeRows };
}

/**
 * The candidates that `auto` compares. If the busiest ranks are equally busy, the first one is chosen, which has fewer
 * hops.
 */
function candidatesOf(spec: PlanSpec, facts: Facts): Candidate[] {
  const pairs = pairRows(spec, instanceCounts(spec, facts.counts));
  const hier = (nodes: PlanSpec): Candidate => {
    const { spec: settled, decision, nodeRows } = hierarchical(nodes, facts);
    const rows = (from: number, node: number) => nodeRows[from * nodes.nodes + node]!;
    const name = nodes.ranksPerNode === 1 ? 'once per rank' : 'once per node';
    const forwarding = { groups: decision.groups, rows };
    return { name, spec: settled, decision, busiest: busiestRank(nodes, pairs, forwarding) };
  };
  return [
    { name: 'flat', spec: settledSpec(spec, 'flat'), decision: FLAT, busiest: busiestRank(spec, pairs) },
    ...(considersOncePerRank(spec) ? [hier(oncePerRank(spec))] : []),
    hier(spec),
  ];
}

/** The spec of a plan with this strategy, from the options as given. */
export function settledSpec(spec: PlanSpec, strategy: Strategy): Plan['spec'] {
  const settled = { ...spec, strategy, ranksPerHost: 0 };
  return strategy === 'hier' ? settled : { ...settled, balance: 'none', partial: 'none', sum: 'none' };
}

/** The settled spec and the decision that it follows from. Throws E_FACTS if the facts lack what the strategy needs. */
export function decide(spec: PlanSpec, facts: Facts): { spec: Plan['spec']; decision: Decision } {
  if (spec.strategy === 'flat') return { spec: settledSpec(spec, 'flat'), decision: FLAT };
  if (spec.strategy === 'hier') {
    const { nodeRows: _, ...settled } = hierarchical(spec, facts);
    return settled;
  }
  const candidates = candidatesOf(spec, facts);
  const texts = candidates.map(
    ({ name, busiest: { interRows, intraRows } }) =>
      `${name} ${interRows} rows between machines and ${intraRows} inside`,
  );
  const best = candidates.reduce((a, b) => (b.busiest.cost < a.busiest.cost ? b : a));
  const isLeftOut = spec.ranksPerNode > 1 && !considersOncePerRank(spec);
  const leftOut = isLeftOut ? '; once per rank is not compared, because experts have replicas' : '';
  const reason = `${best.name} has the least busy rank: ${texts.join(', ')}${leftOut}`;
  return { spec: best.spec, decision: { ...best.decision, reason } };
}
