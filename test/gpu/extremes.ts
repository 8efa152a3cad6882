// Exchanges at the limits of what they can be: one token for all ranks, all tokens for one rank, rows of 2 and of 65,536
// bytes, and experts on several ranks.

import { loadPlanner } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import type { PlanOptions } from '../../planner/spec.ts';
import type { PlainRouting } from '../support/obviousPlan.ts';
import { makeRouting, placementOf, toTables } from '../support/workloads.ts';
import { type Inputs, makeInputs } from './exchanges.ts';
import { compareAllPaths } from './matrix.ts';
import type { GpuCase } from './support.ts';

/** The routing of all ranks, the options of its plan, and rows of bf16. */
export interface Extreme {
  readonly name: string;
  readonly tables: readonly RoutingTable[];
  readonly options: PlanOptions;
  readonly rowBytes: number;
}

type Way = Pick<PlanOptions, 'strategy' | 'ranksPerNode'>;
type Shape = Omit<Extreme, 'options' | 'name'> & Pick<PlanOptions, 'experts' | 'placement' | 'replicas'>;

const ROW_BYTES = 1024;
const TOKENS = 33;
const SHORT_ROW_BYTES = 2;
const LONG_ROW_BYTES = 65_536;
/** Few of the long rows, so that the reference is quick. */
const LONG_ROWS = 5;

const perRank = (ranks: number, tokensOf: (rank: number) => number[][]): PlainRouting =>
  Array.from({ length: ranks }, (_, rank) => tokensOf(rank));

/** Rank 0 has the only token, which every rank receives. */
function oneTokenToAll(ranks: number): Shape {
  const token = Array.from({ length: ranks }, (_, expert) => expert);
  const routing = perRank(ranks, (rank) => (rank === 0 ? [token] : []));
  return { tables: toTables(routing, ranks), experts: ranks, rowBytes: ROW_BYTES };
}

/** Both experts of every token are on the last rank. */
function allToOneRank(ranks: number): Shape {
  const token = [2 * ranks - 1, 2 * ranks - 2];
  const routing = perRank(ranks, () => new Array<number[]>(TOKENS).fill(token));
  return { tables: toTables(routing, 2), experts: 2 * ranks, rowBytes: ROW_BYTES };
}

function balanced(ranks: number, tokens: number, rowBytes: number): Shape {
  const experts = 2 * ranks;
  const routing = makeRouting({ family: 'balanced', seed: rowBytes, ranks, tokens, topk: 2, experts });
  return { tables: toTables(routing, 2), experts, rowBytes };
}

/** Every third expert is on up to three ranks. */
function replicated(ranks: number, replicas: 'quota-1' | 'local'): Shape {
  const experts = 3 * ranks;
  const workload = { family: 'hotExperts', seed: 9, ranks, tokens: TOKENS, topk: 3, experts } as const;
  return {
    tables: toTables(makeRouting({ ...workload, masked: 0.1 }), 3),
    ...{ experts, replicas, placement: placementOf('replicas', experts, ranks), rowBytes: ROW_BYTES },
  };
}

function shapesOf(ranks: number): Record<string, Shape> {
  return {
    'one token to all ranks': oneTokenToAll(ranks),
    'all tokens to one rank': allToOneRank(ranks),
    'rows of 2 bytes': balanced(ranks, TOKENS, SHORT_ROW_BYTES),
    'rows of 65,536 bytes': balanced(ranks, LONG_ROWS, LONG_ROW_BYTES),
    'replicas by quota': replicated(ranks, 'quota-1'),
    'replicas by source': replicated(ranks, 'local'),
  };
}

/** @param ranksPerNode of one of the hierarchical plans; the others have nodes of one rank */
export function extremes(ranks: number, ranksPerNode: number): Extreme[] {
  const nodes = new Set([1, ranksPerNode]);
  const ways: Way[] = [
    { strategy: 'flat' },
    ...[...nodes].map((size) => ({ strategy: 'hier', ranksPerNode: size }) as const),
  ];
  return Object.entries(shapesOf(ranks)).flatMap(([name, { tables, rowBytes, ...rest }]) =>
    ways.map((way) => ({
      name: `${name}: ${way.strategy}, ${way.ranksPerNode ?? ranks} a node`,
      options: { ...rest, ...way, ranks, hidden: rowBytes / 2 },
      ...{ tables, rowBytes },
    })),
  );
}

/** The whole plan of an extreme, and inputs of all exchanges. */
export async function planOfExtreme({
  tables,
  options,
  rowBytes,
}: Extreme): Promise<{ plan: VerifiedPlan; input: Inputs }> {
  const planner = await loadPlanner();
  const plan = planner.planAll(tables, options);
  return { plan, input: makeInputs(plan, 'bf16', rowBytes, 28, true) };
}

export const extremeCases: readonly GpuCase[] = [2, 8].flatMap((ranks) =>
  extremes(ranks, 2).map((extreme) => ({
    name: `extreme: ${ranks} ranks, ${extreme.name}`,
    async run() {
      const { plan, input } = await planOfExtreme(extreme);
      await compareAllPaths(plan, input, 'reference');
    },
  })),
);
