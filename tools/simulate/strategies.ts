// The stages of each way to exchange: what is read, moved and written where, from a plan's loads.

import type { Plan } from '../../planner/plan.ts';
import { type PlanSpec, sumsByNode } from '../../planner/spec.ts';
import { entryLoads, type LinkRows, type PlanLoads, planLoads } from './loads.ts';
import type { Exchange, Stage, Transfer } from './model.ts';

/** Dispatch and combine of one strategy. */
export interface Exchanges {
  readonly dispatch: Exchange;
  readonly combine: Exchange;
}

type Rows = Float64Array;

function total(bytes: number, ...parts: readonly Rows[]): Rows {
  return Float64Array.from(parts[0]!, (_, rank) => parts.reduce((sum, part) => sum + part[rank]!, 0) * bytes);
}

/** Links run in both directions at once, so the busier one counts. A combine swaps them, which changes nothing. */
function transfer(link: LinkRows, bytes: number): Transfer {
  return {
    bytes: link.out.map((out, rank) => Math.max(out, link.in[rank]!) * bytes),
    peers: link.outPeers.map((out, rank) => Math.max(out, link.inPeers[rank]!)),
  };
}

/** Every row from its rank to its expert's rank, read once there and written once here. */
function exchangeStage(name: string, loads: PlanLoads, bytes: number): Stage {
  return {
    name,
    nic: transfer(loads.inter, bytes),
    nvlink: transfer(loads.intra, bytes),
    hbm: total(bytes, loads.kept, loads.received),
  };
}

/** Device-major exchanges with a permutation pass on each side: what libraries do without fusion. */
export function unfused(loads: PlanLoads, { rowBytes }: PlanSpec): Exchanges {
  const { kept, received, tokens, slices } = loads;
  const pass = (name: string, ...rows: Rows[]): Stage => ({ name, permute: total(rowBytes, ...rows) });
  const dispatch = [
    pass('pack', kept, kept),
    exchangeStage('all-to-all', loads, rowBytes),
    pass('unpack', received, received),
  ];
  const combine = [
    pass('pack', received, received),
    exchangeStage('all-to-all', loads, rowBytes),
    pass('unpack and add', kept, tokens),
  ];
  return {
    dispatch: { groups: dispatch.map((stage) => [stage]), slices },
    combine: { groups: combine.map((stage) => [stage]), slices },
  };
}

/** Every row straight into its slot; the combine adds up at home while later slices travel. */
export function flatFused(loads: PlanLoads, { rowBytes }: PlanSpec): Exchanges {
  const { slices } = loads;
  const add: Stage = { name: 'add', hbm: total(rowBytes, loads.kept, loads.tokens) };
  return {
    dispatch: { groups: [[exchangeStage('send', loads, rowBytes)]], slices },
    combine: { groups: [[exchangeStage('send back', loads, rowBytes), add]], slices },
  };
}

/** The stage between nodes of two levels: one row of each (token, node). */
function forwardStage(name: string, { inter }: PlanLoads, bytes: number): Stage {
  return { name, nic: transfer(inter, bytes), hbm: total(bytes, inter.out, inter.in) };
}

/** The stage within nodes: rows between forwarders and slots. */
function distributeStage(name: string, { intra, local }: PlanLoads, bytes: number): Stage {
  return { name, nvlink: transfer(intra, bytes), hbm: total(bytes, intra.out, intra.in, local, local) };
}

/** The two-level stages of a dispatch: one copy a node, then from the forwarder to the slots. */
export function twoLevelDispatch(loads: PlanLoads, rowBytes: number): readonly Stage[] {
  return [forwardStage('forward', loads, rowBytes), distributeStage('distribute', loads, rowBytes)];
}

/** A dispatch's stages backwards: a node's rows are added at the forwarder, and one partial sum of each (token, node) returns. */
export function twoLevelCombine(loads: PlanLoads, rowBytes: number, partialBytes: number): readonly Stage[] {
  return [
    distributeStage('gather', loads, rowBytes),
    forwardStage('send home', loads, partialBytes),
    { name: 'add', hbm: total(rowBytes, loads.summed, loads.tokens) },
  ];
}

/** Bytes of a partial sum: a row, or the same elements in float32. */
export function partialBytes({ partial, hidden, rowBytes }: PlanSpec): number {
  return partial === 'f32' ? 4 * hidden : rowBytes;
}

/** Two levels with the permutation fused in. `loads` must be a hierarchical plan's. */
export function hierFused(loads: PlanLoads, spec: PlanSpec): Exchanges {
  const { slices } = loads;
  return {
    dispatch: { groups: [twoLevelDispatch(loads, spec.rowBytes)], slices },
    combine: { groups: [twoLevelCombine(loads, spec.rowBytes, partialBytes(spec))], slices },
  };
}

/** The exchanges of a plan: a hierarchical one whose combine adds by token returns every row, as a flat one does. */
export function planExchanges(plan: Plan): Exchanges {
  const { spec } = plan;
  if (spec.strategy === 'flat') return flatFused(planLoads(plan), spec);
  const hier = hierFused(planLoads(plan), spec);
  return sumsByNode(spec) ? hier : { ...hier, combine: flatFused(entryLoads(plan), spec).combine };
}
