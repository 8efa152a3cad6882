import { checkChoice, checkInteger, checkKeys } from './errors.ts';
import { MAX_INSTANCES, MAX_RANKS, MAX_ROW_BYTES, MAX_ROWS, MAX_TOPK } from './format/layout.ts';
import {
  checkRanksPerHost,
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

/** How the ranks of each node are assigned to rail groups. `best` selects the rule whose busiest rank is least busy. */
export type BalanceRule = 'static' | 'rotate' | 'lpt';
export type Balance = BalanceRule | 'best';

export const BALANCE_RULES: readonly BalanceRule[] = ['static', 'rotate', 'lpt'];

/** Order in which combine adds a token's rows: first per node and then over the nodes, or by k regardless of the node. */
export type SumOrder = 'node' | 'token';

/** How a source rank chooses between the instances of an expert that has several. */
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
  /**
   * Elements of one row. Nominal: it determines the size of slices and the figures of reports; calls state the bytes of
   * their rows. Default 7168.
   */
  hidden?: number;
  /** Nominal dtype of a row that dispatch moves, likewise. Default bf16. */
  dtype?: Dtype;
  /** Nominal dtype of a row that combine returns: f32, f16 or bf16. Default: `dtype`, and bf16 for fp8. */
  combineDtype?: Dtype;
  /** Every expert's block is padded to a multiple of this many rows. Default 1. */
  align?: number;
  /**
   * Maximum number of rows that one expert instance receives from all ranks together; further rows are dropped. Default
   * 0: no limit.
   */
  capacity?: number;
  /**
   * Maximum number of rows that a rank may receive, including padding. Planning fails with E_MAX_ROWS if a rank would
   * receive more, so buffers of this size are large enough for every plan. Not part of the plan. 0, the default, means no
   * bound.
   */
  maxRows?: number;
  /**
   * Default flat. `auto` decides from the facts, with the same result on all ranks: flat, hierarchical with
   * `ranksPerNode`, or hierarchical with one rank per node ("once per rank"; not if experts have replicas).
   */
  strategy?: Strategy | 'auto';
  /**
   * Ranks per machine; `auto` treats the links inside a machine like those inside a node. A multiple of `ranksPerNode`
   * that divides `ranks`. Default: `ranksPerNode`. Not part of the plan, but identical on all ranks.
   */
  ranksPerHost?: number;
  /** Which rank forwards, in hierarchical plans. Default best. */
  balance?: Balance;
  /** Partial sums of a hierarchical combine that adds node by node. Default payload. */
  partial?: PartialDtype;
  /**
   * Order of additions in a hierarchical plan's combine. `node`, the default, adds node by node and returns one partial
   * sum per token and node. `token` adds single rows in ascending k as a flat plan does: the result has the same bits for
   * any number of ranks, nodes and any strategy, but every row returns. Flat plans always add by token.
   */
  sum?: SumOrder;
  /** Expert -> rank or ranks. Default: contiguous blocks. */
  placement?: PlacementMap;
  /** Which instance of an expert on several ranks takes a row (docs/replicas.md). Default quota-1. */
  replicas?: ReplicaRule;
  /** Target size of one slice in bytes, the unit in which stages overlap. Default 1 MiB. */
  sliceBytes?: number;
  /**
   * Tokens of one tile, for executors that hold a tile of rows at a time: the plan then contains the order of their
   * stores. At most 256 entries per tile. Default 0: none.
   */
  tileTokens?: number;
}

/** Options with all defaults filled in. The ranks of a group must agree on them. */
export interface PlanSpec extends Readonly<Omit<SpecFields, 'placement' | keyof OptionalFields>> {
  readonly nodes: number;
  /** Ranks per machine until `auto` is decided, then 0: it is not part of a plan. */
  readonly ranksPerHost: number;
  /** Nominal bytes of a row that dispatch moves: `hidden` elements of `dtype`. */
  readonly rowBytes: number;
  /** `none` in flat plans. */
  readonly sum: SumOrder | 'none';
  /** `none` if every expert has one instance. */
  readonly replicas: ReplicaRule | 'none';
  /** Nominal dtype of the rows that combine returns. */
  readonly combineDtype: Dtype;
  /** Bound of a receive buffer during planning; 0 if there is none, and in plans that were read from a file. */
  readonly maxRows: number;
  readonly placement: Placement;
}

const DEFAULT_SLICE_BYTES = 1 << 20;
const DEFAULT_SUM: SumOrder = 'node';
const DEFAULT_REPLICAS: ReplicaRule = 'quota-1';
const MAX_SLICE_ROWS = 1 << 20;
/** The index of an entry in its tile is one byte. */
const MAX_TILE_ENTRIES = 256;

/** Every option; the compiler keeps the list complete. */
const PLAN_OPTIONS = Object.keys({
  experts: true,
  ranks: true,
  ranksPerNode: true,
  ranksPerHost: true,
  hidden: true,
  dtype: true,
  combineDtype: true,
  align: true,
  capacity: true,
  maxRows: true,
  strategy: true,
  balance: true,
  partial: true,
  sum: true,
  placement: true,
  replicas: true,
  sliceBytes: true,
  tileTokens: true,
} satisfies Record<keyof PlanOptions, true>);

/**
 * Bytes of the rows that a plan says: what `rowBytes` of a dispatch and of a combine is if the rows are those. Scales of fp8
 * rows are a payload of their own.
 */
export function rowBytes({
  spec,
}: {
  readonly spec: Pick<PlanSpec, 'hidden' | 'rowBytes' | 'combineDtype'>;
}): { readonly dispatch: number; readonly combine: number } {
  return { dispatch: spec.rowBytes, combine: spec.hidden * DTYPE_BYTES[spec.combineDtype] };
}

/** Fills in the defaults and checks every key and range. Throws E_OPTION, E_PLACEMENT or E_LIMIT. */
export function resolveOptions(options: PlanOptions, topk: number): PlanSpec {
  checkKeys('the plan', options, PLAN_OPTIONS);
  const sliceBytes = checkInteger('sliceBytes', options.sliceBytes ?? DEFAULT_SLICE_BYTES, 1, 2 ** 45);
  const spec = makeSpec({
    experts: options.experts,
    ranks: options.ranks,
    ranksPerNode: options.ranksPerNode ?? defaultRanksPerNode(options.ranks),
    ...(options.ranksPerHost === undefined ? {} : { ranksPerHost: options.ranksPerHost }),
    topk,
    hidden: options.hidden ?? 7168,
    dtype: options.dtype ?? 'bf16',
    ...(options.combineDtype === undefined ? {} : { combineDtype: checkCombineDtype(options) }),
    align: options.align ?? 1,
    capacity: options.capacity ?? 0,
    strategy: options.strategy ?? 'flat',
    balance: options.balance ?? 'best',
    partial: options.partial ?? 'payload',
    sum: options.sum ?? DEFAULT_SUM,
    sliceRows: 1,
    tileTokens: options.tileTokens ?? 0,
    placement: options.placement ?? [],
    replicas: options.replicas ?? DEFAULT_REPLICAS,
  });
  const sliceRows = Math.min(MAX_SLICE_ROWS, Math.max(1, Math.floor(sliceBytes / spec.rowBytes)));
  const maxRows = checkInteger('maxRows', options.maxRows ?? 0, 0, MAX_ROWS);
  return { ...spec, sliceRows, maxRows };
}

/** Opaque rows return with their dtype; all others return with a dtype that combine can add. */
function checkCombineDtype({ combineDtype, dtype }: PlanOptions): Dtype {
  const sums: readonly Dtype[] = ['f32', 'f16', 'bf16'];
  return checkChoice('combineDtype', combineDtype, dtype === 'bytes' ? [...sums, 'bytes'] : sums);
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
  /** `auto` until the facts have decided it. */
  strategy: Strategy | 'auto';
  /** `none` in flat plans, as is `partial`. */
  balance: Balance | 'none';
  partial: PartialDtype | 'none';
  /** Rows of one slice, 1..2^20. */
  sliceRows: number;
  /** 0 if the plan has no order of stores. */
  tileTokens: number;
  placement: PlacementMap;
}

/** Checks every field and derives the rest. Throws E_OPTION, E_PLACEMENT or E_LIMIT. */
export function makeSpec(fields: SpecFields & { ranksPerHost?: number }): PlanSpec {
  const ranks = checkInteger('ranks', fields.ranks, 1, MAX_RANKS);
  const experts = checkInteger('experts', fields.experts, 1, MAX_INSTANCES);
  const topk = checkInteger('topk', fields.topk, 1, MAX_TOPK);
  const hidden = checkInteger('hidden', fields.hidden, 1, MAX_ROW_BYTES);
  const dtype = checkChoice('dtype', fields.dtype, DTYPES);
  const strategy = checkChoice('strategy', fields.strategy, ['flat', 'hier', 'auto']);
  const flat = strategy === 'flat';
  const ranksPerNode = checkRanksPerNode(fields.ranksPerNode, ranks);
  const ranksPerHost = checkRanksPerHost(fields.ranksPerHost ?? ranksPerNode, ranksPerNode, ranks);
  const placement = makePlacement(experts, ranks, fields.placement);
  const replicas = checkChoice('replicas', fields.replicas ?? DEFAULT_REPLICAS, REPLICA_RULES);
  return {
    experts,
    ranks,
    ranksPerNode,
    nodes: ranks / ranksPerNode,
    ranksPerHost: strategy === 'auto' ? ranksPerHost : 0,
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

/** The inverse of makeSpec: the independent fields, in the form that the header stores. */
export function specFields(spec: PlanSpec): SpecFields {
  const { nodes, ranksPerHost, rowBytes, maxRows, sum, replicas, combineDtype, placement, ...fields } = spec;
  return { ...fields, placement: placement.map, ...optionalFields(spec) };
}

/** Options that resolve to this spec again. */
export function optionsOf(spec: PlanSpec): PlanOptions {
  const { sliceRows, topk: _, balance, partial, ...rest } = specFields(spec);
  return {
    ...rest,
    ...(spec.ranksPerHost === 0 ? {} : { ranksPerHost: spec.ranksPerHost }),
    sliceBytes: sliceRows * spec.rowBytes,
    ...(balance === 'none' ? {} : { balance }),
    ...(partial === 'none' ? {} : { partial }),
    ...(spec.maxRows === 0 ? {} : { maxRows: spec.maxRows }),
  };
}

/** The spec with one rank per node: a row is sent once to each destination rank. */
export function oncePerRank(spec: PlanSpec): PlanSpec {
  return { ...spec, ranksPerNode: 1, nodes: spec.ranks };
}

/**
 * Whether `auto` may choose oncePerRank. Not if experts have replicas: the instance that takes a row then depends on the
 * nodes, and the facts count the rows only for one choice of nodes.
 */
export function considersOncePerRank({ strategy, ranksPerNode, placement }: PlanSpec): boolean {
  return strategy === 'auto' && ranksPerNode > 1 && placement.instances === placement.experts;
}

/** The instances to which a rank sends directly, without a forwarder: all in a flat plan, those on its node otherwise. */
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

/** Whether combine adds node by node, with one partial sum per token and node. Otherwise it adds by token. */
export function sumsByNode({ sum }: PlanSpec): boolean {
  return sum === 'node';
}

/** Node of a rank. */
export function nodeOf(spec: PlanSpec, rank: number): number {
  return Math.floor(rank / spec.ranksPerNode);
}
