// The dispatches of other libraries as their sources define them, step by step and slowly: who sends what, in which order
// it arrives, where it is written. docs/audit.md names the sources. What a library leaves to chance is drawn at random.

import type { PlainRouting } from '../../support/obviousPlan.ts';
import { obviousPlan } from '../../support/obviousPlan.ts';
import { randomFrom } from '../../support/workloads.ts';

/** What a row of a receive buffer holds: a token, zeros, or anything. */
export type Row = { source: number; token: number } | 'zero' | 'any';

export interface Setting {
  readonly routing: PlainRouting;
  readonly experts: number;
  readonly align: number;
  /** Tokens that a rank may have, for buffers of fixed size. */
  readonly maxTokens: number;
  readonly seed: number;
}

interface Token {
  source: number;
  token: number;
  ids: readonly number[];
}

const range = (count: number) => Array.from({ length: count }, (_, i) => i);

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const drawn = [...items];
  for (let i = drawn.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [drawn[i], drawn[j]] = [drawn[j]!, drawn[i]!];
  }
  return drawn;
}

function tokensOf({ routing }: Setting, source: number): Token[] {
  return routing[source]!.map((ids, token) => ({ source, token, ids }));
}

/** Experts of a rank, where all ranks have equally many. */
function localExperts({ experts, routing }: Setting, rank: number): number[] {
  const count = experts / routing.length;
  return range(count).map((local) => rank * count + local);
}

const rowOf = ({ source, token }: Token): Row => ({ source, token });
const goesTo = (experts: readonly number[]) => (token: Token) =>
  experts.some((expert) => token.ids.includes(expert));

function padded(rows: readonly Row[], count: number, filler: Row): Row[] {
  if (rows.length > count) throw new Error(`${rows.length} rows > ${count}`);
  return [...rows, ...range(count - rows.length).map(() => filler)];
}

const roundUp = (count: number, multiple: number) => Math.ceil(count / multiple) * multiple;

/** permute: the map of tokens and experts is transposed, and its ones are taken in row-major order. */
function permute(tokens: readonly Token[], experts: readonly number[]): { expert: number; token: Token }[] {
  return experts.flatMap((expert) =>
    tokens.filter(({ ids }) => ids.includes(expert)).map((token) => ({ expert, token })),
  );
}

/** Megatron-Core's alltoall dispatcher: permute, all-to-all with a split per rank, sort the chunks by local expert. */
function megatronAlltoall(setting: Setting, rank: number): Row[] {
  const experts = localExperts(setting, rank);
  const all = range(setting.experts);
  const received = setting.routing.map((_, source) => {
    const sent = permute(tokensOf(setting, source), all);
    return sent.filter(({ expert }) => experts.includes(expert));
  });
  // Chunks arrive as [source][local expert] and are sorted to [local expert][source].
  const chunks = received.map((rows) =>
    experts.map((expert) => rows.filter((row) => row.expert === expert).map(({ token }) => token)),
  );
  return range(experts.length).flatMap((local) => chunks.flatMap((chunk) => chunk[local]!.map(rowOf)));
}

/** Megatron-Core's allgather dispatcher: every rank has the tokens of all ranks and permutes those of its experts. */
function megatronAllgather(setting: Setting, rank: number): Row[] {
  const gathered = setting.routing.flatMap((_, source) => tokensOf(setting, source));
  return permute(gathered, localExperts(setting, rank)).map(({ token }) => rowOf(token));
}

/** DeepEP V1, normal: a channel sends a contiguous range of tokens in order; offsets are by source rank, then channel. */
function deepepV1(setting: Setting, rank: number, random: () => number): Row[] {
  const channels = 3;
  const isHere = goesTo(localExperts(setting, rank));
  const rows: Row[] = [];
  for (const source of setting.routing.keys()) {
    const tokens = tokensOf(setting, source);
    const perChannel = Math.ceil(tokens.length / channels);
    for (const channel of range(channels)) {
      const sent = tokens.slice(channel * perChannel, (channel + 1) * perChannel).filter(isHere);
      rows.push(...sent.map(rowOf));
    }
  }
  // A buffer for the worst case is longer.
  return padded(rows, rows.length + Math.floor(3 * random()), 'any');
}

/** Slots of each local expert, the first of which are filled by the sources as they arrive. */
function expertSlots(setting: Setting, rank: number, slots: number, random: () => number): Row[] {
  return localExperts(setting, rank).flatMap((expert) => {
    const arriving = shuffled([...setting.routing.keys()], random).flatMap((source) =>
      shuffled(tokensOf(setting, source).filter(goesTo([expert])), random),
    );
    return padded(arriving.map(rowOf), slots, 'any');
  });
}

/** [local experts, max tokens x ranks]: DeepEP V1 low latency, NCCL EP low latency. */
const lowLatency = (setting: Setting, rank: number, random: () => number) =>
  expertSlots(setting, rank, setting.maxTokens * setting.routing.length, random);

/** Rows once per rank, grouped by source rank, in the order of arrival. */
function bySource(setting: Setting, rank: number, slots: number | undefined, random: () => number): Row[] {
  return [...setting.routing.keys()].flatMap((source) => {
    const sent = tokensOf(setting, source).filter(goesTo(localExperts(setting, rank)));
    const rows = shuffled(sent, random).map(rowOf);
    return slots === undefined ? rows : padded(rows, slots, 'any');
  });
}

/** DeepEP V2 with two nodes: rows come through the rank of the same node that shares the sender's index. */
function deepepV2Hybrid(setting: Setting, rank: number, random: () => number): Row[] {
  const { length: ranks } = setting.routing;
  const perNode = ranks / 2;
  return range(perNode).flatMap((peer) => {
    const through = range(2).map((node) => node * perNode + peer);
    const sent = through.flatMap((source) => tokensOf(setting, source));
    return shuffled(sent.filter(goesTo(localExperts(setting, rank))), random).map(rowOf);
  });
}

/** Blocks by expert at aligned offsets; a row takes the next place of its expert when it arrives. */
function expertMajor(setting: Setting, rank: number, random: () => number): Row[] {
  const experts = localExperts(setting, rank);
  const arriving = shuffled(
    setting.routing.flatMap((_, source) => tokensOf(setting, source)),
    random,
  );
  const offsets = [0];
  for (const expert of experts) {
    const count = arriving.filter(goesTo([expert])).length;
    offsets.push(offsets.at(-1)! + roundUp(count, setting.align));
  }
  const next = [...offsets];
  const rows: Row[] = range(offsets.at(-1)! + 2).map(() => 'any');
  for (const token of arriving) {
    for (const id of token.ids) {
      const local = experts.indexOf(id);
      if (local >= 0) rows[next[local]!++] = rowOf(token);
    }
  }
  return rows;
}

/** The second planner's receive layout. */
function fusco({ routing, experts, align }: Setting, rank: number): Row[] {
  const ranks = obviousPlan(routing, { experts, ranks: routing.length, align });
  const rows: Row[] = range(ranks[rank]!.expertOffsets.at(-1)!).map(() => 'zero');
  for (const [source, { fates }] of ranks.entries()) {
    for (const [token, entries] of fates.entries()) {
      for (const fate of entries)
        if (fate.kind === 'kept' && fate.rank === rank) rows[fate.row] = { source, token };
    }
  }
  return rows;
}

type Library = (setting: Setting, rank: number, random: () => number) => Row[];

const LIBRARIES: Readonly<Record<string, Library>> = {
  fusco,
  'once-per-rank': (setting, rank) =>
    setting.routing.flatMap((_, source) =>
      tokensOf(setting, source)
        .filter(goesTo(localExperts(setting, rank)))
        .map(rowOf),
    ),
  'expert-slots': (setting, rank, random) => expertSlots(setting, rank, 3 * setting.maxTokens, random),
  'rank-major': (setting, rank) =>
    setting.routing.flatMap((_, source) => {
      const sent = tokensOf(setting, source).filter(goesTo(localExperts(setting, rank)));
      return padded(sent.map(rowOf), setting.maxTokens, 'any');
    }),
  'deepep-v1': deepepV1,
  'deepep-v1-low-latency': lowLatency,
  'deepep-v2': (setting, rank, random) => [...bySource(setting, rank, undefined, random), 'any'],
  'deepep-v2-hybrid': deepepV2Hybrid,
  'deepep-v2-expanded': expertMajor,
  'nccl-ep-flat': (setting, rank, random) => [
    ...shuffled(bySource(setting, rank, undefined, random), random),
    'any',
    'any',
  ],
  'nccl-ep-expert-major': expertMajor,
  'nccl-ep-ll-expert-major': lowLatency,
  'nccl-ep-rank-major': (setting, rank, random) => bySource(setting, rank, setting.maxTokens, random),
  'megatron-alltoall': megatronAlltoall,
  'megatron-allgather': megatronAllgather,
  pplx: expertMajor,
  'pplx-batched': (setting, rank, random) =>
    expertSlots(setting, rank, setting.maxTokens * setting.routing.length + 5, random),
};

export const LIBRARY_NAMES = Object.keys(LIBRARIES);

/** The receive buffers of all ranks. */
export function dispatchOf(name: string, setting: Setting): Row[][] {
  const random = randomFrom(setting.seed);
  return setting.routing.map((_, rank) => LIBRARIES[name]!(setting, rank, random));
}
