// Planning at run time, if every process knows the routing of its local rank only: a small all-gather of facts, then each
// rank makes its own shard.

import { decide } from '../planner/decide.ts';
import { countsPerRank, gatherFacts, type RankFacts } from '../planner/facts.ts';
import { joinBytes } from '../planner/format/bytes.ts';
import { optionsDigest } from '../planner/format/digest.ts';
import type { Shard } from '../planner/format/shard.ts';
import { nodeSha256 } from '../planner/node.ts';
import { markVerified, type VerifiedPlan } from '../planner/plan.ts';
import type { Planner } from '../planner/planner.ts';
import { checkTable, type RoutingTable } from '../planner/routing.ts';
import { considersOncePerRank, type PlanOptions, type PlanSpec, resolveOptions } from '../planner/spec.ts';
import { bytesOf } from './memory.ts';

/** Returns the bytes of all ranks, the same number from each; `what` is compared between the ranks first. */
export type Gather = (what: string, own: Uint8Array) => Promise<Uint8Array[]>;

const DIGEST_BYTES = 32;

/** The facts of one rank: digest, counts, and rows per node and per rank if they are known. */
function encodeFacts({ counts, nodeRows, rankRows, optionsDigest: digest }: RankFacts): Uint8Array {
  const words = [counts, nodeRows, rankRows].filter((list) => list !== undefined);
  return joinBytes([digest, ...words.map(bytesOf)]);
}

function decodeFacts(bytes: Uint8Array, spec: PlanSpec, hasRows: boolean): RankFacts {
  const width = countsPerRank(spec);
  const hasRankRows = hasRows && considersOncePerRank(spec);
  const end = hasRankRows ? width + spec.nodes : undefined;
  // A copy, so that words are aligned; slice() of a Buffer is not one. gatherFacts refuses a wrong number of words, and no
  // words stand for a ragged number of bytes.
  const facts = Uint8Array.from(bytes.subarray(DIGEST_BYTES));
  const words = facts.length % 4 === 0 ? new Uint32Array(facts.buffer) : new Uint32Array(0);
  return {
    optionsDigest: bytes.slice(0, DIGEST_BYTES),
    counts: hasRows ? words.subarray(0, width) : words,
    ...(hasRows ? { nodeRows: words.subarray(width, end) } : {}),
    ...(hasRankRows ? { rankRows: words.subarray(end) } : {}),
  };
}

/**
 * Plans one rank's shard. It needs one gather, or two with forwarding and a capacity or quotas, because rows per node
 * then depend on the counts of all ranks.
 *
 * @returns a plan whose only shard is `rank`'s
 */
export async function planDistributed(
  planner: Planner,
  gather: Gather,
  rank: number,
  table: RoutingTable,
  options: PlanOptions,
): Promise<VerifiedPlan> {
  checkTable(table, rank, table.topk);
  const spec = resolveOptions(options, table.topk);
  const digest = await optionsDigest(spec, nodeSha256);
  const what = `facts ${Buffer.from(digest).toString('hex')}`;
  const routed = planner.routeRank(rank, table, spec);
  const { counts, nodeRows, rankRows } = routed;
  const own: RankFacts = {
    counts,
    optionsDigest: digest,
    ...(nodeRows === undefined ? {} : { nodeRows }),
    ...(rankRows === undefined ? {} : { rankRows }),
  };
  const decode = (parts: Uint8Array[], withRows: boolean) =>
    gatherFacts(
      spec,
      parts.map((bytes) => decodeFacts(bytes, spec, withRows)),
    );
  let facts = decode(await gather(what, encodeFacts(own)), nodeRows !== undefined);
  if (spec.strategy !== 'flat' && nodeRows === undefined) {
    const rows = { nodeRows: planner.nodeRows(routed, facts.counts, spec) };
    const perRank = planner.rankRows(routed, facts.counts, spec);
    const known = { ...own, ...rows, ...(perRank === undefined ? {} : { rankRows: perRank }) };
    facts = decode(await gather(`${what} rows per node`, encodeFacts(known)), true);
  }
  const plan = decide(spec, facts);
  const shards: Shard[] = [];
  shards[rank] = planner.planRank(routed, facts, spec);
  // Array methods skip the missing shards of other ranks.
  shards.length = spec.ranks;
  return markVerified({ ...plan, shards });
}
