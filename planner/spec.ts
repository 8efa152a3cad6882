import { checkChoice, checkInteger, FuscoError } from './errors.ts';
import { MAX_INSTANCES, MAX_RANKS, MAX_ROW_BYTES, MAX_ROWS, MAX_TOPK } from './format/layout.ts';
import {
  checkRanksPerNode,
  defaultRanksPerNode,
  makePlacement,
  type Placement,
  type PlacementMap,
} from './placement.ts';

/** Bytes of one element of each payload dtype; `bytes` is opaque. */
export const DTYPE_BYTES = { f32: 4, f16: 2, bf16: 2, fp8: 1, bytes: 1 } as const;
export type Dtype = keyof typeof DTYPE_BYTES;
const DTYPES = Object.keys(DTYPE_BYTES) as Dtype[];

export type Strategy = 'flat' | 'hier';

/** Dtype of a node's partial sums in a hierarchical combine: rounded to the payload's dtype, or kept in float32. */
export type PartialDtype = 'payload' | 'f32';

/** How the ranks of each node are assigned to rail groups. `best` takes the rule with the least busy rank. */
export type BalanceRule = 'static' | 'rotate' | 'lpt';
export type Balance = BalanceRule | 'best';

export const BALANCE_RULES: readonly BalanceRule[] = ['static', 'rotate', 'lpt'];

/** Order in which combine adds a token's rows: node by node and then the nodes, or by k whatever their node. */
export type SumOrder = 'node' | 'token';

/** How a source rank chooses among the instances of an expert that has several. */
export type ReplicaRule = 'local' | 'quota-1';

export const REPLICA_RULES: readonly ReplicaRule[] = ['local', 'quota-1'];

/** What the caller of the planner chooses. Only `experts` and `ranks` have no default. */
export interface PlanOptions {
  /** Logical experts, 1..65535. */
  experts: number;
  /** Ranks of the group, 1..4096. */
  ranks: number;
  /** Ranks that reach each other over NVLink or shared memory; divides `ranks`. Default: largest divisor up to 8. */
  ranksPerNode?: number;
  /** Elements of one row, for reports and slice sizes only. Default 7168. */
  hidden?: number;
  /** Nominal dtype of a row, likewise. Default bf16. */
  dtype?: Dtype;
  /** Rows to which every expert's block is padded. Default 1. */
  align?: number;
  /** Most rows of one expert instance; 0, the default, means no limit. */
  capacity?: number;
  /**
   * Most rows that a rank may receive, padding included; planning fails with E_MAX_ROWS if one would receive more, so that
   * buffers of this size hold every plan. Not part of the plan. 0, the default, means no bound.
   */
  maxRows?: number;
  /** Default flat; auto decides from the facts, with the same result on all ranks. */
  strategy?: Strategy | 'auto';
  /** Which rank forwards, in hierarchical plans. Default best. */
  balance?: Balance;
  /** Partial sums of a hierarchical combine. Default payload. */
  partial?: PartialDtype;
  /** Expert -> rank or ranks. Default: contiguous blocks. */
  placement?: PlacementMap;
  /** Which instance of an expert on several ranks takes a row (docs/replicas.md). Default quota-1. */
  replicas?: ReplicaRule;
  /** Target size of one slice in bytes. Default 1 MiB. */
  sliceBytes?: number;
  /**
   * Tokens of one tile, for executors that hold a tile of rows at a time: the plan then carries the order of their
   * stores. At most 256 entries a tile. Default 0: none.
   */
  tileTokens?: number;
}

/** Options with every default filled in: what the ranks of a group must agree on. */
export interface PlanSpec extends Readonly<Omit<SpecFields, 'placement' | keyof OptionalFields>> {
  readonly nodes: number;
  /** Nominal bytes of a row. */
  readonly rowBytes: number;
  /** `none` in flat plans. */
  readonly sum: SumOrder | 'none';
  /** `none` if every expert has one instance. */
  readonly replicas: ReplicaRule | 'none';
  /** Nominal dtype of the rows that combine returns. */
  readonly combineDtype: Dtype;
  /** Bound of a receive buffer while planning; 0 without, and in plans that were read. */
  readonly maxRows: number;
  readonly placement: Placement;
}

const DEFAULT_SLICE_BYTES = 1 << 20;
const DEFAULT_SUM: SumOrder = 'node';
const DEFAULT_REPLICAS: ReplicaRule = 'quota-1';
const MAX_SLICE_ROWS = 1 << 20;
/** An entry's place in its tile is one byte. */
const MAX_TILE_ENTRIES = 256;

/** Fills in the defaults and checks every range. Throws E_OPTION, E_PLACEMENT or E_LIMIT. */
export function resolveOptions(options: PlanOptions, topk: number): PlanSpec {
  const sliceBytes = checkInteger('sliceBytes', options.sliceBytes ?? DEFAULT_SLICE_BYTES, 1, 2 ** 45);
  const spec = makeSpec({
    experts: options.experts,
    ranks: options.ranks,
    ranksPerNode: options.ranksPerNode ?? defaultRanksPerNode(options.ranks),
    topk,
    hidden: options.hidden ?? 7168,
    dtype: options.dtype ?? 'bf16',
    align: options.align ?? 1,
    capacity: options.capacity ?? 0,
    strategy: options.strategy ?? 'flat',
    balance: options.balance ?? 'best',
    partial: options.partial ?? 'payload',
    sliceRows: 1,
    tileTokens: options.tileTokens ?? 0,
    placement: options.placement ?? [],
    replicas: options.replicas ?? DEFAULT_REPLICAS,
  });
  const sliceRows = Math.min(MAX_SLICE_ROWS, Math.max(1, Math.floor(sliceBytes / spec.rowBytes)));
  const maxRows = checkInteger('maxRows', options.maxRows ?? 0, 0, MAX_ROWS);
  return { ...spec, sliceRows, maxRows };
}

/** Fields that a header omits at their default. They are part of the plan id and exist since format 1.1. */
export interface OptionalFields {
  /** Default `node`; hierarchical plans only. */
  sum?: SumOrder;
  /** Default `quota-1`; only if an expert has several instances. */
  replicas?: ReplicaRule;
  /** Default: the plan's dtype, and bf16 for fp8. */
  combineDtype?: Dtype;
}

/** The independent fields of a spec, as a plan's header stores them. */
export interface SpecFields extends OptionalFields {
  experts: number;
  ranks: number;
  ranksPerNode: number;
  topk: number;
  hidden: number;
  dtype: Dtype;
  align: number;
  capacity: number;
  /** `auto` until the facts have settled it. */
  strategy: Strategy | 'auto';
  /** `none` in flat plans, as is `partial`. */
  balance: Balance | 'none';
  partial: PartialDtype | 'none';
  sliceRows: number;
  /** 0 without an order of stores. */
  tileTokens: number;
  placement: PlacementMap;
}

/** Checks every field and derives the rest. Throws E_OPTION, E_PLACEMENT or E_LIMIT. */
export function makeSpec(fields: SpecFields): PlanSpec {
  const ranks = checkInteger('ranks', fields.ranks, 1, MAX_RANKS);
  const experts = checkInteger('experts', fields.experts, 1, MAX_INSTANCES);
  const topk = checkInteger('topk', fields.topk, 1, MAX_TOPK);
  const hidden = checkInteger('hidden', fields.hidden, 1, MAX_ROW_BYTES);
  const dtype = checkChoice('dtype', fields.dtype, DTYPES);
  const strategy = checkChoice('strategy', fields.strategy, ['flat', 'hier', 'auto']);
  const flat = strategy === 'flat';
  const ranksPerNode = checkRanksPerNode(fields.ranksPerNode, ranks);
  const placement = makePlacement(experts, ranks, fields.placement);
  const replicas = checkChoice('replicas', fields.replicas ?? DEFAULT_REPLICAS, REPLICA_RULES);
  return {
    experts,
    ranks,
    ranksPerNode,
    nodes: ranks / ranksPerNode,
    topk,
    hidden,
    dtype,
    rowBytes: checkInteger('hidden x dtype', hidden * DTYPE_BYTES[dtype], 1, MAX_ROW_BYTES),
    align: checkInteger('align', fields.align, 1, MAX_SLICE_ROWS),
    capacity: checkInteger('capacity', fields.capacity, 0, MAX_ROWS),
    strategy,
    balance: flat ? 'none' : checkChoice('balance', fields.balance, [...BALANCE_RULES, 'best']),
    partial: flat ? 'none' : checkChoice('partial', fields.partial, ['payload', 'f32']),
    sum: flat ? 'none' : checkChoice('sum', fields.sum ?? DEFAULT_SUM, ['node', 'token']),
    replicas: placement.instances === experts ? 'none' : replicas,
    combineDtype: checkChoice('combineDtype', fields.combineDtype ?? defaultCombineDtype(dtype), DTYPES),
    sliceRows: checkInteger('sliceRows', fields.sliceRows, 1, MAX_SLICE_ROWS),
    tileTokens: checkInteger('tileTokens', fields.tileTokens, 0, Math.floor(MAX_TILE_ENTRIES / topk)),
    maxRows: 0,
    placement,
  };
}

function defaultCombineDtype(dtype: Dtype): Dtype {
  return dtype === 'fp8' ? 'bf16' : dtype;
}

/** The optional fields that differ from their default. */
export function optionalFields({ sum, replicas, combineDtype, dtype }: PlanSpec): OptionalFields {
  return {
    ...(sum === 'none' || sum === DEFAULT_SUM ? {} : { sum }),
    ...(replicas === 'none' || replicas === DEFAULT_REPLICAS ? {} : { replicas }),
    ...(combineDtype === defaultCombineDtype(dtype) ? {} : { combineDtype }),
  };
}

/** Throws E_BACKEND for a plan whose sums follow a rule that this version knows by name only. */
export function checkSupported(spec: PlanSpec): void {
  const { sum } = optionalFields(spec);
  if (sum === undefined) return;
  const text = `this version cannot plan or execute sum '${sum}': update fusco, or plan without it`;
  throw new FuscoError('E_BACKEND', text, { path: '/header/core/sum', value: sum });
}

/** The inverse of makeSpec: the independent fields, in the form that the header stores. */
export function specFields(spec: PlanSpec): SpecFields {
  const { nodes: _, rowBytes: __, maxRows: ___, sum, replicas, combineDtype, placement, ...fields } = spec;
  return { ...fields, placement: placement.map, ...optionalFields(spec) };
}

/** Options that resolve to this spec again. Throws E_BACKEND for rules that the planner does not have. */
export function optionsOf(spec: PlanSpec): PlanOptions {
  checkSupported(spec);
  const { sliceRows, topk: _, balance, partial, combineDtype: __, ...rest } = specFields(spec);
  return {
    ...rest,
    sliceBytes: sliceRows * spec.rowBytes,
    ...(balance === 'none' ? {} : { balance }),
    ...(partial === 'none' ? {} : { partial }),
    ...(spec.maxRows === 0 ? {} : { maxRows: spec.maxRows }),
  };
}

/** What a rank sends directly, without a forwarder: to all ranks in a flat plan, to its own node in others. */
export interface DirectRange {
  readonly firstRank: number;
  readonly endRank: number;
  /** First instance of `firstRank`. */
  readonly first: number;
  /** First instance of `endRank`. */
  readonly end: number;
}

export function directInstances(spec: PlanSpec, rank: number): DirectRange {
  const { ranksPerNode, ranks, strategy, placement } = spec;
  const firstRank = strategy === 'flat' ? 0 : nodeOf(spec, rank) * ranksPerNode;
  const endRank = strategy === 'flat' ? ranks : firstRank + ranksPerNode;
  return { firstRank, endRank, first: placement.rankFirst[firstRank]!, end: placement.rankFirst[endRank]! };
}

/** Node of a rank. */
export function nodeOf(spec: PlanSpec, rank: number): number {
  return Math.floor(rank / spec.ranksPerNode);
}
