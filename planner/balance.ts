// Which rank forwards for which: the paper's balancer (FUSCO, section 4, Algorithm 1) and two neighbours of it.
//
// A communication group has one rank of every node; its members forward for each other, so a balancer is a
// permutation of groups within each node. What a rank sends between nodes does not depend on it; what a rank
// receives there does.

import { BALANCE_RULES, type Balance, type BalanceRule, type PlanSpec } from './spec.ts';

/** A balancer's result and its objective. */
export interface Grouping {
  readonly rule: BalanceRule;
  /** u16[ranks], group of every rank; each node holds every group once. */
  readonly groups: Uint16Array;
  /** Largest max(sent, received) inter-node rows of any rank: what `best` minimises. */
  readonly busiestRows: number;
  /** Largest number of inter-node rows that any rank receives: what decides between equals. */
  readonly busiestReceived: number;
}

/** Rows that each rank sends to other nodes. */
function sentRows(spec: PlanSpec, nodeRows: Uint32Array): number[] {
  return Array.from({ length: spec.ranks }, (_, rank) => {
    let rows = 0;
    for (let node = 0; node < spec.nodes; node++) rows += nodeRows[rank * spec.nodes + node]!;
    return rows;
  });
}

/** Ranks of a node, heaviest sender first; ties go to the lower rank. */
function byLoad(spec: PlanSpec, node: number, sent: readonly number[]): number[] {
  const first = node * spec.ranksPerNode;
  const ranks = Array.from({ length: spec.ranksPerNode }, (_, i) => first + i);
  return ranks.sort((a, b) => sent[b]! - sent[a]! || a - b);
}

/** Same local index: the rails of a rail-optimised network. */
function staticGroups(spec: PlanSpec): Uint16Array {
  return Uint16Array.from({ length: spec.ranks }, (_, rank) => rank % spec.ranksPerNode);
}

/** Algorithm 1: every node's ranks sorted by load, rotated by the node's index. */
function rotateGroups(spec: PlanSpec, sent: readonly number[]): Uint16Array {
  const groups = new Uint16Array(spec.ranks);
  for (let node = 0; node < spec.nodes; node++) {
    for (const [place, rank] of byLoad(spec, node, sent).entries()) {
      groups[rank] = (place + node) % spec.ranksPerNode;
    }
  }
  return groups;
}

/** Longest processing time first: node by node, the heaviest rank joins the lightest group still free there. */
function lptGroups(spec: PlanSpec, sent: readonly number[]): Uint16Array {
  const groups = new Uint16Array(spec.ranks);
  const load = new Array<number>(spec.ranksPerNode).fill(0);
  for (let node = 0; node < spec.nodes; node++) {
    const free = load.map((_, group) => group).sort((a, b) => load[a]! - load[b]! || a - b);
    for (const [place, rank] of byLoad(spec, node, sent).entries()) {
      groups[rank] = free[place]!;
      load[free[place]!]! += sent[rank]!;
    }
  }
  return groups;
}

/** The rank of `node` that is in `rank`'s group, for every node. */
export function forwardersOf(spec: PlanSpec, groups: Uint16Array, rank: number): Uint32Array {
  const forwarders = new Uint32Array(spec.nodes);
  for (let member = 0; member < spec.ranks; member++) {
    if (groups[member] === groups[rank]) forwarders[Math.floor(member / spec.ranksPerNode)] = member;
  }
  return forwarders;
}

/** Rows that each rank receives from other nodes as their forwarder. */
export function receivedRows(spec: PlanSpec, groups: Uint16Array, nodeRows: Uint32Array): number[] {
  const perGroup = Array.from({ length: spec.ranksPerNode }, () => new Array<number>(spec.nodes).fill(0));
  for (let rank = 0; rank < spec.ranks; rank++) {
    for (let node = 0; node < spec.nodes; node++) {
      perGroup[groups[rank]!]![node]! += nodeRows[rank * spec.nodes + node]!;
    }
  }
  return Array.from(groups, (group, rank) => perGroup[group]![Math.floor(rank / spec.ranksPerNode)]!);
}

/** The paper's measure: cross-node rows sent by the members of every group. */
export function groupLoads(spec: PlanSpec, groups: Uint16Array, nodeRows: Uint32Array): number[] {
  const loads = new Array<number>(spec.ranksPerNode).fill(0);
  for (const [rank, rows] of sentRows(spec, nodeRows).entries()) loads[groups[rank]!]! += rows;
  return loads;
}

function grouping(rule: BalanceRule, spec: PlanSpec, nodeRows: Uint32Array): Grouping {
  const sent = sentRows(spec, nodeRows);
  const groups =
    rule === 'static'
      ? staticGroups(spec)
      : rule === 'rotate'
        ? rotateGroups(spec, sent)
        : lptGroups(spec, sent);
  const received = receivedRows(spec, groups, nodeRows);
  const busiestReceived = received.reduce((most, rows) => Math.max(most, rows), 0);
  const busiestRows = sent.reduce((most, rows) => Math.max(most, rows), busiestReceived);
  return { rule, groups, busiestRows, busiestReceived };
}

/** Negative where `a` is better. Where the heaviest sender decides, no grouping can help it; its receivers can. */
function compareGroupings(a: Grouping, b: Grouping): number {
  return a.busiestRows - b.busiestRows || a.busiestReceived - b.busiestReceived;
}

/**
 * Groups the ranks. `best` takes the rule whose busiest rank is least busy, among equals the one whose busiest
 * receiver is, and then the first of static, rotate, lpt.
 *
 * @param nodeRows u32[ranks, nodes], rows that each rank sends to each node; 0 for its own
 */
export function balance(rule: Balance, spec: PlanSpec, nodeRows: Uint32Array): Grouping {
  if (rule !== 'best') return grouping(rule, spec, nodeRows);
  return BALANCE_RULES.map((candidate) => grouping(candidate, spec, nodeRows)).reduce((best, candidate) =>
    compareGroupings(candidate, best) < 0 ? candidate : best,
  );
}
