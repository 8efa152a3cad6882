// The stages of each strategy: what is read, moved and written where, from the loads of a plan.

import type { Plan } from '../../planner/plan.ts';
import { type PlanSpec, sumsByNode } from '../../planner/spec.ts';
import { combineRowBytes, dispatchRowBytes, partialRowBytes } from '../figures/rowBytes.ts';
import { entryLoads, type LinkRows, type Links, type PlanLoads, planLoads } from './loads.ts';
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

/**
 * Links run in both directions at the same time, so the busier direction counts. A combine swaps them, which has no
 * effect.
 */
function transfer(link: LinkRows, bytes: number): Transfer {
  return {
    bytes: link.out.map((out, rank) => Math.max(out, link.in[rank]!) * bytes),
    peers: link.outPeers.map((out, rank) => Math.max(out, link.inPeers[rank]!)),
  };
}

function linkStage(links: Links, bytes: number): Required<Pick<Stage, 'nic' | 'nvlink'>> {
  return { nic: transfer(links.nic, bytes), nvlink: transfer(links.nvlink, bytes) };
}

/** Rows that leave each rank, and those that reach it. */
function crossing({ nic, nvlink }: Links): Rows[] {
  return [nic.out, nvlink.out, nic.in, nvlink.in];
}

/** Every row from its rank to its expert's rank, read once there and written once here. `loads` are a flat plan's. */
function exchangeStage(name: string, loads: PlanLoads, bytes: number): Stage {
  const { inter, intra, kept, received } = loads;
  const sum = (a: LinkRows, b: LinkRows): LinkRows => ({
    out: total(1, a.out, b.out),
    in: total(1, a.in, b.in),
    outPeers: total(1, a.outPeers, b.outPeers),
    inPeers: total(1, a.inPeers, b.inPeers),
  });
  const links = { nic: sum(inter.nic, intra.nic), nvlink: sum(inter.nvlink, intra.nvlink) };
  return { name, ...linkStage(links, bytes), hbm: total(bytes, kept, received) };
}

/** Device-major exchanges with a permutation pass on each side, as libraries without fusion do. */
export function unfused(loads: PlanLoads, spec: PlanSpec): Exchanges {
  const { kept, received, tokens, slices } = loads;
  const [there, back] = [dispatchRowBytes(spec), combineRowBytes(spec)];
  const pass = (name: string, bytes: number, ...rows: Rows[]): Stage => ({
    name,
    permute: total(bytes, ...rows),
  });
  const dispatch = [
    pass('pack', there, kept, kept),
    exchangeStage('all-to-all', loads, there),
    pass('unpack', there, received, received),
  ];
  const combine = [
    pass('pack', back, received, received),
    exchangeStage('all-to-all', loads, back),
    pass('unpack and add', back, kept, tokens),
  ];
  return {
    dispatch: { groups: dispatch.map((stage) => [stage]), slices },
    combine: { groups: combine.map((stage) => [stage]), slices },
  };
}

/** Every row straight into its slot; the combine adds on the rank of the token while later slices are sent. */
export function flatFused(loads: PlanLoads, spec: PlanSpec): Exchanges {
  const { slices } = loads;
  const back = combineRowBytes(spec);
  const send = { ...exchangeStage('send', loads, dispatchRowBytes(spec)), isScattered: true };
  const add: Stage = { name: 'add', hbm: total(back, loads.kept, loads.tokens) };
  return {
    dispatch: { groups: [[send]], slices },
    combine: { groups: [[exchangeStage('send back', loads, back), add]], slices },
  };
}

/** The stage between nodes of two levels: one row of each (token, node). */
function forwardStage(name: string, { inter }: PlanLoads, bytes: number): Stage {
  return { name, ...linkStage(inter, bytes), hbm: total(bytes, ...crossing(inter)) };
}

/** The stage within nodes: rows between forwarders and slots. */
function distributeStage(name: string, { intra, local }: PlanLoads, bytes: number): Stage {
  return { name, ...linkStage(intra, bytes), hbm: total(bytes, ...crossing(intra), local, local) };
}

/** The two-level stages of a dispatch: one copy per node, then from the forwarder to the slots. */
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

/** Two levels with the permutation fused in. `loads` must be a hierarchical plan's. */
export function hierFused(loads: PlanLoads, spec: PlanSpec): Exchanges {
  const { slices } = loads;
  const there = twoLevelDispatch(loads, dispatchRowBytes(spec));
  const back = twoLevelCombine(loads, combineRowBytes(spec), partialRowBytes(spec));
  return { dispatch: { groups: [there], slices }, combine: { groups: [back], slices } };
}

/**
 * One copy per rank in one pass, for ranks that NVLink joins: the destination copies a row to its other slots while
 * later rows arrive, and sums a token's rows before one partial sum returns. `loads` must be those of a hierarchical
 * plan with one rank per node.
 */
export function oncePerRank(loads: PlanLoads, spec: PlanSpec): Exchanges {
  const { inter, slices, tokens, received, landed } = loads;
  const [there, back, partial] = [dispatchRowBytes(spec), combineRowBytes(spec), partialRowBytes(spec)];
  const send: Stage = {
    name: 'send and copy on',
    ...linkStage(inter, there),
    hbm: total(there, tokens, landed, received),
  };
  // A partial sum for each copy that left is written here by its peer, and read.
  const sums = total(partial, inter.nvlink.out, inter.nvlink.out);
  const sumAndReturn: Stage = {
    name: 'sum and return',
    ...linkStage(inter, partial),
    hbm: total(back, received, tokens).map((bytes, rank) => bytes + sums[rank]!),
  };
  return {
    dispatch: { groups: [[send]], slices },
    combine: { groups: [[sumAndReturn]], slices },
  };
}

/** Whether a plan sends a row once to each rank. */
export function isOncePerRank({
  strategy,
  ranksPerNode,
}: Pick<PlanSpec, 'strategy' | 'ranksPerNode'>): boolean {
  return strategy === 'hier' && ranksPerNode === 1;
}

/**
 * The exchanges of a plan without changes. Between ranks connected by NVLink, once per rank takes one pass; a
 * hierarchical plan whose combine adds by token returns every row, as a flat one does.
 *
 * @param joined consecutive ranks that NVLink joins
 */
export function planExchanges(plan: Plan, joined: number): Exchanges {
  const { spec } = plan;
  const loads = planLoads(plan, joined);
  if (spec.strategy === 'flat') return flatFused(loads, spec);
  const usesNic = loads.inter.nic.out.some((rows) => rows > 0);
  const hier = isOncePerRank(spec) && !usesNic ? oncePerRank(loads, spec) : hierFused(loads, spec);
  return sumsByNode(spec) ? hier : { ...hier, combine: flatFused(entryLoads(plan, joined), spec).combine };
}
