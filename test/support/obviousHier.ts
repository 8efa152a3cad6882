// The slow, obvious hierarchical plan: from a flat one and the communication groups, which are taken as given.
// Like the obvious planner it shares nothing with the code under test.

import {
  countSegments,
  cutSlices,
  type Delivery,
  type ForwardedRow,
  type ObviousForward,
  type ObviousRank,
  rowsPerPeer,
} from './obviousPlan.ts';

export interface ObviousHierOptions {
  ranksPerNode: number;
  /** Communication group of every rank. */
  groups: readonly number[];
  /** Rows of one slice at most; default: no limit. */
  sliceRows?: number;
}

/** Sends every token's rows for a remote node through one forwarder there, and leaves the own node's rows as they are. */
export function obviousHier(flat: readonly ObviousRank[], options: ObviousHierOptions): ObviousRank[] {
  const { ranksPerNode, groups, sliceRows = Number.POSITIVE_INFINITY } = options;
  const ranks = flat.length;
  const nodes = ranks / ranksPerNode;
  const nodeOf = (rank: number) => Math.floor(rank / ranksPerNode);
  const forwarderOf = (source: number, node: number) => {
    for (let rank = 0; rank < ranks; rank++) {
      if (nodeOf(rank) === node && groups[rank] === groups[source]) return rank;
    }
    throw new Error(`node ${node} has nobody in group ${groups[source]}`);
  };

  // Which tokens each rank sends to each remote node, and the entries that want them there.
  const wanted = flat.map(({ fates }, source) =>
    Array.from({ length: nodes }, (_, node) =>
      node === nodeOf(source) ? [] : wantedAt(fates, node, nodeOf),
    ),
  );

  // Staging rows: a forwarder's sources in ascending rank order, one row each for whatever they send there.
  const sourcesOf = flat.map((_, forwarder) => {
    let row = 0;
    return flat.map((_, source) => {
      const node = nodeOf(forwarder);
      const forwardsFor = node !== nodeOf(source) && forwarderOf(source, node) === forwarder;
      if (!forwardsFor) return { row: 0, rows: 0 };
      const rows = wanted[source]![node]!.length;
      row += rows;
      return { row: row - rows, rows };
    });
  });

  return flat.map((plan, source) => {
    const own = nodeOf(source);
    const rows = wanted[source]!.flatMap((tokens, node) =>
      tokens.map((entries, index): ForwardedRow => {
        const forwarder = forwarderOf(source, node);
        const here = entries.filter(({ rank }) => rank === forwarder).map(({ row }) => row);
        return {
          node,
          token: entries[0]!.token,
          entries,
          stageRow: sourcesOf[forwarder]![source]!.row + index,
          slot: here.length > 0 ? Math.min(...here) : undefined,
        };
      }),
    );
    const nodeRows = wanted[source]!.map((tokens) => tokens.length);
    const forward: ObviousForward = {
      rows,
      nodeRows,
      firstStageRow: nodeRows.map((_, node) =>
        node === own ? 0 : sourcesOf[forwarderOf(source, node)]![source]!.row,
      ),
      slices: cutSlices(nodeRows, own, 0, sliceRows),
      sources: sourcesOf[source]!,
      stageRows: sourcesOf[source]!.reduce((sum, { rows }) => sum + rows, 0),
    };
    const stream = plan.stream.filter(({ rank }) => nodeOf(rank) === own);
    const first = own * ranksPerNode;
    const direct = rowsPerPeer(stream, first, ranksPerNode);
    const slices = cutSlices(direct, source - first, first, sliceRows);
    return { ...plan, stream, slices, segments: countSegments({ stream }), forward };
  });
}

/** The kept entries at a node: one list, by k, of every token that has some. */
function wantedAt(fates: ObviousRank['fates'], node: number, nodeOf: (rank: number) => number): Delivery[][] {
  const tokens: Delivery[][] = [];
  fates.forEach((ids, token) => {
    const entries: Delivery[] = [];
    ids.forEach((fate, k) => {
      if (fate.kind !== 'kept' || nodeOf(fate.rank) !== node) return;
      entries.push({ token, k, rank: fate.rank, expert: fate.expert, row: fate.row });
    });
    if (entries.length > 0) tokens.push(entries);
  });
  return tokens;
}
