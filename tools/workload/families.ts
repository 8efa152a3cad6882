// Workload families: routing tables as pure functions of (family, seed, step, sizes).

import { checkInteger, FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES, MAX_RANKS, MAX_ROWS, MAX_TOPK } from '../../planner/format/layout.ts';
import { checkRanksPerNode, defaultRanksPerNode } from '../../planner/placement.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { counterTables } from './counterHash.ts';
import { Urn } from './draw.ts';
import { Stream } from './random.ts';

/** Families with their descriptions, as listed by the command line. */
export const FAMILIES = {
  balanced: 'every expert is equally likely',
  'hot-experts': 'the first sixteenth of the experts is SKEW times as likely as the others',
  'hot-rank': 'the experts of rank 0 are SKEW times as likely',
  'spread-hot-experts': 'one expert on every rank is SKEW times as likely',
  ragged: 'ranks have different numbers of tokens, 0..TOKENS',
  'empty-rank': 'the last rank has no tokens',
  'idle-rank': 'no token chooses an expert of the last rank, which receives nothing',
  'rotating-hot-spot': 'the experts of rank STEP mod RANKS are SKEW times as likely',
  burst: 'rank STEP mod RANKS has all its tokens, the others have one',
  'one-node': 'all experts of a token are on one node, drawn evenly (FUSCO, section 5)',
  imbalanced: 'a quarter of the ranks is heavy: its experts are SKEW times as likely (FUSCO, section 5)',
  collectivex:
    'every expert is equally likely; byte-identical to the CollectiveX benchmark (which uses seed 67)',
} as const;
export type Family = keyof typeof FAMILIES;

export const DEFAULT_SKEW = 8;

export interface Workload {
  family: Family;
  /** 0..2^32-1. */
  seed: number;
  /** Training step, for families that change over time; 0..2^32-1. Default 0. */
  step?: number;
  ranks: number;
  /** Tokens of a rank; families with uneven ranks use it as the maximum. */
  tokens: number;
  topk: number;
  experts: number;
  /** How many times as likely a hot expert is, 1..1000. Default 8. */
  skew?: number;
  /** For `one-node`. Default: the largest divisor of `ranks` up to 8. */
  ranksPerNode?: number;
}

/** Contiguous blocks, the default placement: the rank that hosts an expert. */
function ownerOf(expert: number, { experts, ranks }: Workload): number {
  return Math.floor((expert * ranks) / experts);
}

/** Tokens of each rank. */
function tokensOf({ family, seed, step = 0, ranks, tokens }: Workload): number[] {
  const stream = new Stream(seed, step, MAX_RANKS);
  return Array.from({ length: ranks }, (_, rank) => {
    if (family === 'ragged') return stream.below(tokens + 1);
    if (family === 'empty-rank') return rank === ranks - 1 ? 0 : tokens;
    if (family === 'burst') return rank === step % ranks ? tokens : Math.min(tokens, 1);
    return tokens;
  });
}

/** The heavy quarter of the ranks, at least one: which ranks are heavy depends on the seed alone. */
function heavyRanks({ seed, ranks }: Workload): Set<number> {
  return new Set(new Stream(seed, MAX_RANKS).shuffle(ranks).slice(0, Math.max(1, Math.floor(ranks / 4))));
}

/** Relative weight of each expert. */
function weightsOf(workload: Workload): number[] {
  const { family, ranks, experts, step = 0, skew = DEFAULT_SKEW } = workload;
  const heavy = family === 'imbalanced' ? heavyRanks(workload) : new Set<number>();
  const isHot = (expert: number): boolean => {
    const owner = ownerOf(expert, workload);
    if (family === 'hot-experts') return expert < Math.max(1, Math.floor(experts / 16));
    if (family === 'hot-rank') return owner === 0;
    if (family === 'spread-hot-experts') return expert === 0 || owner !== ownerOf(expert - 1, workload);
    if (family === 'rotating-hot-spot') return owner === step % ranks;
    return heavy.has(owner);
  };
  return Array.from({ length: experts }, (_, expert) => {
    if (family === 'idle-rank' && ownerOf(expert, workload) === ranks - 1) return 0;
    return isHot(expert) ? skew : 1;
  });
}

/** Urns from which each token takes one: a single one, or one per node. */
function urnsOf(workload: Workload): Urn[] {
  const { family, ranks, experts, topk } = workload;
  if (family !== 'one-node') {
    const urn = new Urn(weightsOf(workload));
    urn.checkRoom(topk, 'of the layer');
    return [urn];
  }
  const ranksPerNode = checkRanksPerNode(workload.ranksPerNode ?? defaultRanksPerNode(ranks), ranks);
  return Array.from({ length: ranks / ranksPerNode }, (_, node) => {
    const hosted = Array.from({ length: experts }, (_, expert) => expert).filter(
      (expert) => Math.floor(ownerOf(expert, workload) / ranksPerNode) === node,
    );
    const urn = new Urn(
      hosted.map(() => 1),
      hosted[0] ?? 0,
    );
    urn.checkRoom(topk, `of node ${node}`);
    return urn;
  });
}

function drawTable(urns: readonly Urn[], stream: Stream, tokens: number, topk: number): RoutingTable {
  const ids = new Int32Array(tokens * topk);
  for (let token = 0; token < tokens; token++) {
    const urn = urns.length === 1 ? urns[0]! : urns[stream.below(urns.length)]!;
    urn.draw(stream, ids, token * topk, topk);
  }
  return { ids, tokens, topk };
}

function checkSizes(ranks: number, tokens: number, topk: number, seed: number, step: number): void {
  checkInteger('ranks', ranks, 1, MAX_RANKS);
  checkInteger('topk', topk, 1, MAX_TOPK);
  checkInteger('tokens', tokens, 0, Math.floor(MAX_ROWS / topk));
  checkInteger('seed', seed, 0, 2 ** 32 - 1);
  checkInteger('step', step, 0, 2 ** 32 - 1);
}

/** One table per rank. Throws E_OPTION for sizes out of range or a topk that a node or the layer cannot serve. */
export function makeWorkload(workload: Workload): RoutingTable[] {
  const { family, seed, step = 0, ranks, tokens, topk, experts, skew = DEFAULT_SKEW } = workload;
  if (!Object.hasOwn(FAMILIES, family)) {
    throw new FuscoError(
      'E_OPTION',
      `family ${String(family)} is not one of ${Object.keys(FAMILIES).join(', ')}`,
    );
  }
  checkSizes(ranks, tokens, topk, seed, step);
  checkInteger('experts', experts, 1, MAX_INSTANCES);
  checkInteger('skew', skew, 1, 1000);
  const urns = urnsOf(workload);
  if (family === 'collectivex') {
    return counterTables({ seed, step, ranks, tokens, topk, experts });
  }
  return tokensOf(workload).map((own, rank) => drawTable(urns, new Stream(seed, step, rank), own, topk));
}

/** What a table that is drawn from counts or from other tokens needs. */
export interface SampleSizes {
  seed: number;
  ranks: number;
  tokens: number;
  topk: number;
}

/**
 * A model of a router that is known by its expert counts alone: experts of a token are drawn by their share, as if the
 * choices of one token, and those of different ranks, were independent.
 *
 * @param counts how often each expert was chosen, integers from 0
 */
export function sampleCounts(
  counts: ArrayLike<number>,
  { seed, ranks, tokens, topk }: SampleSizes,
): RoutingTable[] {
  checkSizes(ranks, tokens, topk, seed, 0);
  const urn = new Urn(counts);
  urn.checkRoom(topk, 'that were ever chosen');
  return Array.from({ length: ranks }, (_, rank) =>
    drawTable([urn], new Stream(seed, 0, rank), tokens, topk),
  );
}

/**
 * A model of a larger batch of a recorded router: every token repeats the choice of a random recorded token, so that the
 * joint choice of a token's experts is real, but the assignment of tokens to ranks is not.
 */
export function resampleTokens(
  recorded: readonly RoutingTable[],
  sizes: Omit<SampleSizes, 'topk'>,
): RoutingTable[] {
  const topk = recorded[0]?.topk ?? 0;
  const rows = recorded.flatMap(({ ids, tokens }) =>
    Array.from({ length: tokens }, (_, token) =>
      Array.from(ids.subarray(token * topk, (token + 1) * topk), Number),
    ),
  );
  const { seed, ranks, tokens } = sizes;
  checkSizes(ranks, tokens, topk, seed, 0);
  if (rows.length === 0)
    throw new FuscoError('E_OPTION', 'there are no tokens to take choices from', {
      hint: 'Record a step with tokens.',
    });
  return Array.from({ length: ranks }, (_, rank) => {
    const stream = new Stream(seed, 0, rank);
    const ids = new Int32Array(tokens * topk);
    for (let token = 0; token < tokens; token++) ids.set(rows[stream.below(rows.length)]!, token * topk);
    return { ids, tokens, topk };
  });
}
