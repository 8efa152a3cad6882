// The path of one token through a plan: from its row through the forwarders to its slots, and back.

import { FuscoError } from '../../planner/errors.ts';
import { SLOT_DROPPED } from '../../planner/format/layout.ts';
import type { Plan } from '../../planner/plan.ts';
import { nodeOf, sumsByNode } from '../../planner/spec.ts';
import { forwardedRows } from '../../planner/walk.ts';

/** One (token, k) and its destination. */
export interface PathEntry {
  readonly k: number;
  readonly state: 'delivered' | 'masked' | 'dropped';
  /** Undefined if masked, as are rank and node. */
  readonly expert?: number;
  readonly rank?: number;
  readonly node?: number;
  /** Row of the receive buffer; only if delivered. */
  readonly slot?: number;
  /** Index into `forwards`; undefined if the row is sent directly. */
  readonly forward?: number;
}

/** The copy that is sent to another node. */
export interface PathForward {
  readonly node: number;
  /** The rank that receives it. */
  readonly rank: number;
  /** Row of the forwarder's receive buffer, or of its landing buffer. */
  readonly lands: 'slot' | 'staging';
  readonly row: number;
  /** k of the entries that it serves. */
  readonly ks: readonly number[];
}

export interface TokenPath {
  readonly rank: number;
  readonly node: number;
  readonly token: number;
  readonly rowBytes: number;
  /** Whether rows are added node by node, and forwarded rows return as a partial sum; otherwise rows are added by k. */
  readonly addsByNode: boolean;
  /** Dtype of a node's partial sum on the way back. */
  readonly partial: string;
  readonly entries: readonly PathEntry[];
  readonly forwards: readonly PathForward[];
}

function forwardsOf(plan: Plan, rank: number, token: number): PathForward[] {
  const { distributeEntry, topk } = plan.shards[rank]!;
  return [...forwardedRows(plan, rank)]
    .filter((row) => row.token === token)
    .map(({ node, forwarder, target, firstEntry, endEntry }) => ({
      node,
      rank: forwarder,
      lands: target < 0 ? 'staging' : 'slot',
      row: target < 0 ? ~target : target,
      ks: Array.from(distributeEntry.subarray(firstEntry, endEntry), (entry) => entry % topk),
    }));
}

/** Follows a token through a verified plan. Throws E_OPTION for a rank or token that the plan does not have. */
export function followToken(plan: Plan, rank: number, token: number): TokenPath {
  const { spec, shards } = plan;
  const shard = shards[rank];
  if (shard === undefined || !Number.isInteger(token) || token < 0 || token >= shard.tokens) {
    const text =
      shard === undefined
        ? `rank ${rank} of ${shards.length}`
        : `token ${token} of rank ${rank}, which has ${shard.tokens}`;
    throw new FuscoError('E_OPTION', text, { rank, token });
  }
  const { instanceRank, instanceExpert, instances } = spec.placement;
  const forwards = forwardsOf(plan, rank, token);
  const entries = Array.from({ length: shard.topk }, (_, k): PathEntry => {
    const entry = token * shard.topk + k;
    const instance = shard.entryInstance[entry]!;
    const slot = shard.entrySlot[entry]!;
    if (instance >= instances) return { k, state: 'masked' };
    const host = instanceRank[instance]!;
    const goal = { k, expert: instanceExpert[instance]!, rank: host, node: nodeOf(spec, host) };
    if (slot === SLOT_DROPPED) return { ...goal, state: 'dropped' };
    const forward = forwards.findIndex(({ ks }) => ks.includes(k));
    return { ...goal, state: 'delivered', slot, ...(forward < 0 ? {} : { forward }) };
  });
  return {
    rank,
    node: nodeOf(spec, rank),
    token,
    rowBytes: spec.rowBytes,
    addsByNode: sumsByNode(spec),
    partial: spec.partial === 'f32' ? 'f32' : spec.dtype,
    entries,
    forwards,
  };
}
