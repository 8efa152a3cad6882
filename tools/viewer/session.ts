// The work of the worker, independent of the worker: opens files, plans, counts, follows tokens. It also runs in Node,
// for tests.

import type { Sha256 } from '../../planner/format/hash.ts';
import {
  decodePlan,
  encodePlan,
  FuscoError,
  type PlacementMap,
  type Planner,
  type PlanOptions,
  planId,
  type RoutingTable,
  type VerifiedPlan,
  verifyPlan,
} from '../../planner/index.ts';
import { defaultRanksPerNode } from '../../planner/placement.ts';
import { optionsOf } from '../../planner/spec.ts';
import { diffPlans } from '../diff/diffPlans.ts';
import { formatChange, formatValue, METRICS } from '../diff/metrics.ts';
import { causeLines } from '../diff/render.ts';
import { figuresOf } from '../figures/planFigures.ts';
import { type Strategies, strategiesOf } from '../figures/strategyRows.ts';
import { proposedMap } from '../placement/compareProposals.ts';
import { type NamedBytes, parseRouting } from '../readers/numpyRouting.ts';
import { isPlan } from '../readers/planMagic.ts';
import { joinTables, leastExperts, splitTable } from '../readers/tables.ts';
import { routingOf } from '../simulate/compare.ts';
import { checkFit, defaultTopology, namedTopology, type Topology } from '../simulate/topology.ts';
import { detailOf } from './detail.ts';
import type { Calls, Detail, Difference, Opened, Planned, Side, Subject, ViewOptions } from './protocol.ts';
import { followToken, type TokenPath } from './tokenPath.ts';

/** Number of ranks of a table that does not state it. */
const GUESSED_RANKS = 8;

interface Open {
  /** One per rank; a single one if the file has no axis of ranks. */
  readonly tables: readonly RoutingTable[];
  readonly fileRanks: number | undefined;
  /** Options of a plan file, including those that the page does not show. */
  readonly kept?: PlanOptions;
  plan?: VerifiedPlan;
  topology?: Topology;
  /** The machine that was chosen by name. */
  machine?: Topology;
}

/** Reads one routing: with its ranks, or as a single table if it has none. */
function readTables(files: readonly NamedBytes[]): { tables: RoutingTable[]; fileRanks?: number } {
  try {
    const tables = parseRouting(files);
    return { tables, fileRanks: tables.length };
  } catch (error) {
    const lacksRanks = error instanceof FuscoError && error.code === 'E_RANKS';
    if (!lacksRanks || files.length > 1) throw error;
    return { tables: parseRouting(files, 1) };
  }
}

function placementOf(options: ViewOptions, tables: readonly RoutingTable[]): PlacementMap {
  const { placement, experts, ranks, ranksPerNode, extra: replicas } = options;
  if (placement === 'packed') return proposedMap(tables, experts, { ranks, ranksPerNode, replicas });
  if (placement === 'blocks') return [];
  if (placement === 'round-robin') return Array.from({ length: experts }, (_, expert) => expert % ranks);
  return placement;
}

/** Options of the planner. A capacity of 0 means no limit, in the page as in the planner. */
function planOptions(options: ViewOptions, tables: readonly RoutingTable[]): PlanOptions {
  const { topology: _, extra: __, ...rest } = options;
  return { ...rest, placement: placementOf(options, tables) };
}

/** The machine that a side predicts on. Throws E_OPTION for an unknown name, or a group that does not fit. */
function machineOf({ topology, ranks, ranksPerNode }: ViewOptions): Topology {
  if (topology === '') return defaultTopology({ ranks, ranksPerNode });
  const machine = namedTopology(topology);
  if (machine === undefined) throw new FuscoError('E_OPTION', `topology ${topology} is not known`);
  checkFit(machine, ranks);
  return machine;
}

/** The options of a plan, as the page shows them. */
function optionsOfPlan({ spec }: VerifiedPlan): ViewOptions {
  const { experts, ranks, ranksPerNode, strategy, align, capacity, hidden, dtype, placement } = spec;
  return {
    experts,
    ranks,
    ranksPerNode,
    strategy,
    balance: spec.balance === 'none' ? 'best' : spec.balance,
    partial: spec.partial === 'none' ? 'payload' : spec.partial,
    sum: spec.sum === 'none' ? 'node' : spec.sum,
    align,
    capacity,
    hidden,
    dtype,
    topology: '',
    placement: placement.map.length === 0 ? 'blocks' : placement.map,
    extra: 0,
    replicas: spec.replicas === 'none' ? 'quota-1' : spec.replicas,
  };
}

function guessOptions(tables: readonly RoutingTable[], fileRanks: number | undefined): ViewOptions {
  const ranks = fileRanks ?? GUESSED_RANKS;
  return {
    experts: leastExperts(tables),
    ranks,
    ranksPerNode: defaultRanksPerNode(ranks),
    strategy: 'flat',
    balance: 'best',
    partial: 'payload',
    sum: 'node',
    align: 1,
    capacity: 0,
    hidden: 7168,
    dtype: 'bf16',
    topology: '',
    placement: 'blocks',
    extra: 0,
    replicas: 'quota-1',
  };
}

/** Makes a dummy plan, so that the engine has compiled the hot loops before the first file arrives. */
export function warmUp(planner: Planner): void {
  const [ranks, tokens, topk, experts] = [8, 1024, 8, 64];
  const tables = Array.from({ length: ranks }, (_, rank) => {
    const ids = Int32Array.from({ length: tokens * topk }, (_, entry) => {
      const token = Math.floor(entry / topk);
      // Eight different experts: consecutive ones from a varying start.
      return (token * 29 + rank * 13 + (entry % topk)) % experts;
    });
    return { ids, tokens, topk };
  });
  for (let round = 0; round < 3; round++) {
    for (const strategy of ['flat', 'hier'] as const) {
      figuresOf(planner.planAll(tables, { experts, ranks, ranksPerNode: 4, strategy }), true);
    }
  }
}

/** The files and plans of both sides. */
export class Session implements Calls {
  readonly #planner: Planner;
  readonly #sha256: Sha256;
  readonly #open = new Map<Side, Open>();

  constructor(planner: Planner, sha256: Sha256) {
    this.#planner = planner;
    this.#sha256 = sha256;
  }

  /** Opens one routing (one file, or rank{r}.npy) or one plan. Throws what the readers and the verifier throw. */
  async open(side: Side, files: readonly NamedBytes[]): Promise<Opened> {
    const [first] = files;
    if (first === undefined) throw new FuscoError('E_FORMAT', 'no file');
    if (files.length === 1 && isPlan(first.bytes)) return this.#openPlan(side, first);
    const { tables, fileRanks } = readTables(files);
    const options = guessOptions(tables, fileRanks);
    this.#open.set(side, { tables, fileRanks });
    const name = files.length === 1 ? first.name : `${files.length} files`;
    return this.#opened(side, 'routing', name, options);
  }

  async #openPlan(side: Side, { name, bytes }: NamedBytes): Promise<Opened> {
    const { plan, planId } = await decodePlan(bytes, this.#sha256);
    const verified = verifyPlan(plan);
    const tables = routingOf(verified);
    this.#open.set(side, { tables, fileRanks: plan.spec.ranks, kept: optionsOf(plan.spec) });
    return { ...this.#opened(side, 'plan', name, optionsOfPlan(verified)), planId };
  }

  #opened(side: Side, kind: Opened['kind'], name: string, options: ViewOptions): Opened {
    const { tables, fileRanks } = this.#side(side);
    const tokens = tables.reduce((sum, table) => sum + table.tokens, 0);
    const topk = tables[0]!.topk;
    return { kind, name, topk, tokens, options, ...(fileRanks === undefined ? {} : { fileRanks }) };
  }

  #side(side: Side): Open {
    const open = this.#open.get(side);
    if (open === undefined) throw new FuscoError('E_USAGE', 'open a file first');
    return open;
  }

  #plan(side: Side): VerifiedPlan {
    const { plan } = this.#side(side);
    if (plan === undefined) throw new FuscoError('E_USAGE', 'there is no plan yet');
    return plan;
  }

  /** Plans a side again. If that fails, the side has no plan, so that no outdated one can be followed or saved. */
  async plan(side: Side, options: ViewOptions): Promise<Planned> {
    const open = this.#side(side);
    delete open.plan;
    const topology = machineOf(options);
    const isResplit = options.ranks !== open.fileRanks;
    const tables = isResplit ? splitTable(joinTables(open.tables), options.ranks) : open.tables;
    const start = performance.now();
    const plan = this.#planner.planAll(tables, { ...open.kept, ...planOptions(options, tables) });
    const planned = performance.now();
    const id = await planId(plan, this.#sha256);
    const hashed = performance.now();
    const figures = figuresOf(plan, true, topology);
    const counted = performance.now();
    open.plan = plan;
    open.topology = topology;
    if (options.topology === '') delete open.machine;
    else open.machine = topology;
    return {
      planId: id,
      figures,
      tokens: plan.shards.map((shard) => shard.tokens),
      times: { plan: planned - start, id: hashed - planned, figures: counted - hashed },
      isResplit: isResplit && open.fileRanks !== undefined,
    };
  }

  async token(side: Side, rank: number, token: number): Promise<TokenPath> {
    return followToken(this.#plan(side), rank, token);
  }

  /** The plan as the bytes of its file. */
  async save(side: Side): Promise<Uint8Array> {
    return (await encodePlan(this.#plan(side), this.#sha256)).bytes;
  }

  async strategies(side: Side): Promise<Strategies> {
    return strategiesOf(this.#plan(side), this.#planner, this.#side(side).topology);
  }

  async difference(): Promise<Difference> {
    const [a, b] = [this.#plan('a'), this.#plan('b')];
    const { machine } = this.#side('a');
    const diff = diffPlans(a, b, machine === undefined ? {} : { topology: machine });
    const meanings = new Map(METRICS.map(({ name, meaning }) => [name, meaning]));
    const figures = diff.metrics
      .filter(({ from, to }) => from !== to)
      .map(
        ({ name, unit, from, to, change }) =>
          [
            meanings.get(name)!.replace(/, in microseconds$/, ''),
            formatValue(from, unit),
            formatValue(to, unit),
            formatChange(change),
          ] as const,
      );
    return { headline: diff.headline, causes: causeLines(diff), figures };
  }

  async detail(side: Side, subject: Subject): Promise<Detail> {
    return detailOf(this.#plan(side), subject);
  }
}
