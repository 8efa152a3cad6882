// What all ranks decide from the facts, with the same result: who forwards, and, for `auto`, whether to forward.

import { balance, type Grouping } from './balance.ts';
import { FuscoError } from './errors.ts';
import type { Facts } from './facts.ts';
import type { Decision, Plan } from './plan.ts';
import { instanceCounts } from './quotas.ts';
import type { PlanSpec, Strategy } from './spec.ts';
import { type Forwarding, LinkTotals, visitTraffic } from './traffic.ts';

/**
 * Effective rates of the cost model in GB/s, per rank and direction (docs/performance.md): integers, so that the
 * decision is the same everywhere. `fusco simulate` takes other rates; `auto` only compares.
 */
const NVLINK_RATE = 370;
const NIC_RATE = 43;

const FLAT: Decision = { strategy: 'flat', rule: 'none', groups: new Uint16Array(0), reason: '' };

/** Rows of the busiest rank on its NIC and on its NVLink, per direction the larger one. */
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

/** The busiest rank of a flat plan and of a hierarchical one. Rows that stay on a rank use no link. */
function compareStrategies(spec: PlanSpec, { counts, nodeRows }: Required<Facts>, { groups }: Grouping) {
  const rows = pairRows(spec, instanceCounts(spec, counts));
  const cost = (forwarding?: Forwarding) => {
    const [inter, intra] = [new LinkTotals(spec.ranks), new LinkTotals(spec.ranks)];
    visitTraffic(spec, rows, forwarding, { inter: inter.add, intra: intra.add });
    return busiest(inter, intra);
  };
  return { flat: cost(), hier: cost({ groups, rows: (from, node) => nodeRows[from * spec.nodes + node]! }) };
}

/** The spec once its strategy is known. */
export function settle(spec: PlanSpec, strategy: Strategy): Plan['spec'] {
  if (strategy === 'hier') return { ...spec, strategy };
  return { ...spec, strategy, balance: 'none', partial: 'none', sum: 'none' };
}

/** The settled spec and the decision that it follows from. Throws E_FACTS if the facts lack what the strategy needs. */
export function decide(spec: PlanSpec, facts: Facts): { spec: Plan['spec']; decision: Decision } {
  if (spec.strategy === 'flat') return { spec: settle(spec, 'flat'), decision: FLAT };
  const { nodeRows, counts } = facts;
  if (nodeRows?.length !== spec.ranks * spec.nodes || spec.balance === 'none') {
    throw new FuscoError('E_FACTS', `the ${spec.strategy} strategy needs each rank's rows per node`);
  }
  const grouping = balance(spec.balance, spec, nodeRows);
  const { rule, groups } = grouping;
  const hier: Decision = { strategy: 'hier', rule, groups, reason: '' };
  if (spec.strategy === 'hier') return { spec: settle(spec, 'hier'), decision: hier };
  const costs = compareStrategies(spec, { counts, nodeRows }, grouping);
  const rows = (name: string, { interRows, intraRows }: BusiestRank) =>
    `${name} ${interRows} rows between nodes and ${intraRows} inside`;
  const reason = `busiest rank: ${rows('flat', costs.flat)}, ${rows('hier', costs.hier)}`;
  if (costs.hier.cost < costs.flat.cost) {
    return { spec: settle(spec, 'hier'), decision: { ...hier, reason } };
  }
  return { spec: settle(spec, 'flat'), decision: { ...FLAT, reason } };
}
