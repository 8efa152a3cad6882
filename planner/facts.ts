import { FuscoError } from './errors.ts';
import type { PlanSpec } from './spec.ts';

/** What one rank contributes to the small all-gather before planning at run time. */
export interface RankFacts {
  /** u32[countsPerRank]: this rank's entries per instance, or per expert under `quota-1`, before the capacity. */
  readonly counts: Uint32Array;
  /** u32[nodes], rows per node, if the strategy is not flat: RoutedRank.nodeRows or Planner.nodeRows. */
  readonly nodeRows?: Uint32Array;
  /** u32[ranks], rows per rank, if `auto` may choose once per rank: RoutedRank.rankRows or Planner.rankRows. */
  readonly rankRows?: Uint32Array;
  /** From optionsDigest: 32 bytes that are identical on ranks with the same options. */
  readonly optionsDigest: Uint8Array;
}

/** The gathered facts: everything that a rank needs to know about the others. */
export interface Facts {
  /** u32[ranks, countsPerRank]. */
  readonly counts: Uint32Array;
  /** u32[ranks, nodes], rows that each rank forwards to each node; only if the strategy is not flat. */
  readonly nodeRows?: Uint32Array;
  /** u32[ranks, ranks], rows that each rank sends to each rank; only if `auto` may choose once per rank. */
  readonly rankRows?: Uint32Array;
}

/**
 * Rows per node of one rank or of all ranks, with the nodes of this spec. If `auto` chose one rank per node, they are the
 * rows per rank.
 */
export function rowsPerNode(
  { nodeRows, rankRows }: Pick<Facts, 'nodeRows' | 'rankRows'>,
  { ranksPerNode }: PlanSpec,
): Uint32Array | undefined {
  return ranksPerNode === 1 ? (rankRows ?? nodeRows) : nodeRows;
}

/** How many counts a rank has: one per instance, or one per expert if quotas choose the instance. */
export function countsPerRank({ replicas, experts, placement }: PlanSpec): number {
  return replicas === 'quota-1' ? experts : placement.instances;
}

/** What one of these numbers counts. */
export function countedThing({ replicas }: PlanSpec): 'expert' | 'instance' {
  return replicas === 'quota-1' ? 'expert' : 'instance';
}

/** Joins the ranks' contributions, in rank order. Throws E_FACTS naming the ranks whose options differ. */
export function gatherFacts(spec: PlanSpec, parts: readonly RankFacts[]): Facts {
  const { ranks } = spec;
  const width = countsPerRank(spec);
  if (parts.length !== ranks) {
    throw new FuscoError('E_FACTS', `facts of ${parts.length} ranks for a group of ${ranks}`, {
      limit: ranks,
    });
  }
  checkOptions(parts);
  const counts = new Uint32Array(ranks * width);
  parts.forEach((part, rank) => {
    if (part.counts.length !== width) {
      const text = `rank ${rank} counts ${part.counts.length} ${countedThing(spec)}s, not ${width}`;
      throw new FuscoError('E_FACTS', text, { rank });
    }
    counts.set(part.counts, rank * width);
  });
  const nodeRows = joinRows(spec, parts, 'nodeRows');
  const rankRows = joinRows(spec, parts, 'rankRows');
  return {
    counts,
    ...(nodeRows === undefined ? {} : { nodeRows }),
    ...(rankRows === undefined ? {} : { rankRows }),
  };
}

/** Refuses ranks whose options differ. This comes before any check of sizes, because sizes depend on the options. */
function checkOptions(parts: readonly RankFacts[]): void {
  const reference = parts[0]!.optionsDigest;
  const odd = [...parts.keys()].filter((rank) => {
    const digest = parts[rank]!.optionsDigest;
    return digest.length !== 32 || digest.some((byte, i) => byte !== reference[i]);
  });
  if (odd.length === 0) return;
  throw new FuscoError(
    'E_FACTS',
    `ranks ${odd.join(', ')} plan with options that differ from those of rank 0`,
    {
      rank: odd[0]!,
    },
  );
}

/** Rows per node or rank of all ranks; undefined if no rank gives them. Throws E_FACTS if only some do. */
function joinRows(
  { ranks, nodes }: PlanSpec,
  parts: readonly RankFacts[],
  key: 'nodeRows' | 'rankRows',
): Uint32Array | undefined {
  if (parts.every((part) => part[key] === undefined)) return undefined;
  const [size, what] = key === 'nodeRows' ? [nodes, 'nodes'] : [ranks, 'ranks'];
  const joined = new Uint32Array(ranks * size);
  for (const [rank, part] of parts.entries()) {
    const rows = part[key];
    if (rows?.length !== size) {
      const text = `rank ${rank} counts ${rows?.length ?? 'no'} ${what}, not ${size}`;
      throw new FuscoError('E_FACTS', text, { rank });
    }
    joined.set(rows, rank * size);
  }
  return joined;
}
