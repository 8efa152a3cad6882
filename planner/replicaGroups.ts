import { instancesByExpert } from './placement.ts';
import type { PlanSpec } from './spec.ts';

/** Groups: the instances of one expert on one node, which follow one another in the list of instances by expert. */
export interface ReplicaGroups {
  /** Instances by (expert, rank), and the first place of each expert; see instancesByExpert. */
  readonly list: Uint16Array;
  readonly first: Uint32Array;
  /** First place of each group, and the end of the list. */
  readonly groupFirst: readonly number[];
  /** Node of each group. */
  readonly node: readonly number[];
  /** u32[instances], group of each instance. */
  readonly groupOf: Uint32Array;
}

export function groupReplicas({
  placement,
  ranksPerNode,
}: Pick<PlanSpec, 'placement' | 'ranksPerNode'>): ReplicaGroups {
  const { instances, instanceRank, instanceExpert } = placement;
  const { first, list } = instancesByExpert(placement);
  const groupOf = new Uint32Array(instances);
  const groupFirst: number[] = [];
  const node: number[] = [];
  let expert = -1;
  for (let at = 0; at < instances; at++) {
    const i = list[at]!;
    const host = Math.floor(instanceRank[i]! / ranksPerNode);
    if (instanceExpert[i] !== expert || host !== node[node.length - 1]) {
      groupFirst.push(at);
      node.push(host);
      expert = instanceExpert[i]!;
    }
    groupOf[i] = node.length - 1;
  }
  groupFirst.push(instances);
  return { list, first, groupFirst, node, groupOf };
}
