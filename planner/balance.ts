// Which rank forwards for which: the paper's balancer (FUSCO, section 4, Algorithm 1) and two other rules.
//
// A rail group has one rank of every node. Its members forward for each other, so a balancer assigns the ranks of each
// node to the rail groups. It changes how many inter-node rows a rank receives, but not how many it sends.

import { BALANCE_RULES, type Balance, type BalanceRule, type PlanSpec } from './spec.ts';
import { largest } from './totals.ts';

/** A balancer's result and its objective. */
export interface Grouping {
  readonly rule: BalanceRule;
  /** u16[ranks], rail group of every rank; each node has one rank in every group. */
  readonly groups: Uint16Array;
  /** Largest max(sent, received) inter-node rows of any rank: minimized by `best`. */
  readonly busiestRows: number;
  /** Largest number of inter-node rows that any rank receives; decides if the maxima above are equal. */
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

/** Ranks of a node by rows sent, descending; ties by rank. */
function byLoad(spec: PlanSpec, node: number, sent: readonly number[]): number[] {
  const first = node * spec.ranksPerNode;
  const ranks = Array.from({ length: spec.ranksPerNode }, (_, i) => first + i);
  return ranks.sort((a, b) => sent[b]! - sent[a]! || a - b);
}

/** Same local index: the rails of a rail-optimized network. */
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

/** Longest processing time first: node by node, the rank with the most rows joins the free group with the fewest. */
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

/** u32[nodes]: the rank of each node that is in `rank`'s rail group. */
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

/** The paper's measure: inter-node rows sent by the members of every rail group. */
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
  const busiestReceived = largest(received);
  const busiestRows = Math.max(busiestReceived, largest(sent));
  return { rule, groups, busiestRows, busiestReceived };
}

/** Negative if `a` is better: lexicographic order of (max(sent, received), max(received)) over the ranks. */
function compareGroupings(a: Grouping, b: Grouping): number {
  return a.busiestRows - b.busiestRows || a.busiestReceived - b.busiestReceived;
}

/**
 * Assigns the ranks to rail groups. `best` takes the rule with the lexicographic minimum of (max(sent, received),
 * max(received)) over the ranks; ties go to the first of static, rotate, lpt.
 *
 * @param nodeRows u32[ranks, nodes], rows that each rank sends to each node; 0 for the local node
 */
export function balance(rule: Balance, spec: PlanSpec, nodeRows: Uint32Array): Grouping {
  if (rule !== 'best') return grouping(rule, spec, nodeRows);
  return BALANCE_RULES.map((candidate) => grouping(candidate, spec, nodeRows)).reduce((best, candidate) =>
    compareGroupings(candidate, best) < 0 ? candidate : best,
  );
}
