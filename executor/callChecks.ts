// Checks of a call before a backend sees it: one buffer per local rank, large enough, and no output overlaps another
// buffer.

import { checkInteger, FuscoError } from '../planner/errors.ts';
import { MAX_ROW_BYTES, MAX_ROWS } from '../planner/format/layout.ts';
import type { Plan } from '../planner/plan.ts';
import { DTYPE_BYTES } from '../planner/spec.ts';
import type {
  CombineCall,
  DispatchCall,
  Fp8Call,
  GateBackwardCall,
  GateCall,
  Memory,
  WeightGradientCall,
} from './backends/types.ts';
import { checkBytes, isExternal } from './memory.ts';
import { rowCodec } from './numeric.ts';
import { scaleBlocks } from './training/fp8.ts';
import { type GateOptions, resolveGate } from './training/gating.ts';

/** Bytes of an i32 or f32. */
const WORD_BYTES = 4;
/** Bytes of the origin of a row: source rank, token and k, an i32 each. */
export const ORIGIN_BYTES = 3 * WORD_BYTES;

/** The bytes of a buffer: a range of one ArrayBuffer, or of the process's address space. */
interface Extent {
  readonly space: ArrayBufferLike | undefined;
  readonly start: bigint;
  readonly end: bigint;
  readonly name: string;
}

class Extents {
  readonly #inputs: Extent[] = [];
  readonly #outputs: Extent[] = [];

  /** Adds one buffer per rank of which `needed(rank)` bytes are used. Throws E_BUFFER. */
  add(
    name: string,
    memories: readonly Memory[],
    ranks: number,
    kind: 'in' | 'out',
    needed: (rank: number) => number,
  ) {
    if (memories.length !== ranks) {
      throw new FuscoError('E_BUFFER', `${name}: ${memories.length} buffers for ${ranks} ranks`, {
        limit: ranks,
      });
    }
    memories.forEach((memory, rank) => {
      const extent = extentOf(memory, `${name} of rank ${rank}`, needed(rank), rank);
      if (extent.end > extent.start) (kind === 'in' ? this.#inputs : this.#outputs).push(extent);
    });
  }

  /** Throws E_BUFFER if an output shares a byte with another output or an input. */
  refuseOverlap(): void {
    const spaces = new Map<unknown, [Extent, boolean][]>();
    const group = (extent: Extent, isOutput: boolean) => {
      const list = spaces.get(extent.space) ?? [];
      spaces.set(extent.space, list);
      list.push([extent, isOutput]);
    };
    for (const extent of this.#inputs) group(extent, false);
    for (const extent of this.#outputs) group(extent, true);
    for (const list of spaces.values()) {
      list.sort(([a], [b]) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
      let furthest: Extent | undefined;
      let furthestOutput: Extent | undefined;
      for (const [extent, isOutput] of list) {
        const other = isOutput ? furthest : furthestOutput;
        if (other !== undefined && other.end > extent.start) {
          throw new FuscoError('E_BUFFER', `${extent.name} overlaps ${other.name}`);
        }
        if (furthest === undefined || extent.end > furthest.end) furthest = extent;
        if (isOutput && (furthestOutput === undefined || extent.end > furthestOutput.end))
          furthestOutput = extent;
      }
    }
  }
}

function extentOf(memory: Memory, name: string, needed: number, rank: number): Extent {
  const external = isExternal(memory);
  if (!external && !ArrayBuffer.isView(memory)) {
    throw new FuscoError('E_BUFFER', `${name} is neither a typed array nor {address, bytes}`, { rank });
  }
  const given = external ? memory.bytes : memory.byteLength;
  checkBytes(name, given, needed, rank);
  const start = external ? memory.address : BigInt(memory.byteOffset);
  const space = external ? undefined : memory.buffer;
  return { space, start, end: start + BigInt(needed), name };
}

function checkRowBytes(name: string, rowBytes: number): void {
  if (Number.isInteger(rowBytes) && rowBytes >= 1 && rowBytes <= MAX_ROW_BYTES) return;
  throw new FuscoError('E_BUFFER', `${name}: rows of ${rowBytes} bytes are outside 1..${MAX_ROW_BYTES}`, {
    value: rowBytes,
    limit: MAX_ROW_BYTES,
  });
}

/** Sizes that calls are checked against; `ranks` are the local ones. */
function sizesOf(plan: Plan, localRanks: readonly number[]) {
  const shards = localRanks.map((rank) => plan.shards[rank]!);
  return {
    ranks: shards.length,
    tokens: (i: number) => shards[i]!.tokens,
    entries: (i: number) => shards[i]!.entries,
    recvRows: (i: number) => shards[i]!.recvRows,
  };
}

/** Throws E_BUFFER or E_DTYPE unless `call` fits the plan. */
export function checkDispatch(plan: Plan, localRanks: readonly number[], call: DispatchCall): void {
  const { ranks, tokens, entries, recvRows } = sizesOf(plan, localRanks);
  const extents = new Extents();
  call.payloads.forEach(({ rowBytes, from, to, per, dtype }, p) => {
    checkRowBytes(`payload ${p}`, rowBytes);
    if (per !== undefined && per !== 'token' && per !== 'entry') {
      throw new FuscoError('E_OPTION', `payload ${p}: per ${String(per)} is not one of token, entry`);
    }
    const rows = per === 'entry' ? entries : tokens;
    if (call.scale !== undefined && per !== 'entry') rowCodec(dtype ?? 'bytes', rowBytes);
    extents.add(`payload ${p}: from`, from, ranks, 'in', (rank) => rows(rank) * rowBytes);
    extents.add(`payload ${p}: to`, to, ranks, 'out', (rank) => recvRows(rank) * rowBytes);
  });
  if (call.origins !== undefined) {
    extents.add('origins', call.origins, ranks, 'out', (rank) => recvRows(rank) * ORIGIN_BYTES);
  }
  if (call.scale !== undefined)
    extents.add('scale', call.scale, ranks, 'in', (rank) => entries(rank) * WORD_BYTES);
  extents.refuseOverlap();
}

export function checkCombine(plan: Plan, localRanks: readonly number[], call: CombineCall): void {
  const { ranks, tokens, entries, recvRows } = sizesOf(plan, localRanks);
  checkRowBytes('combine', call.rowBytes);
  rowCodec(call.dtype, call.rowBytes);
  const extents = new Extents();
  extents.add('from', call.from, ranks, 'in', (rank) => recvRows(rank) * call.rowBytes);
  extents.add('to', call.to, ranks, 'out', (rank) => tokens(rank) * call.rowBytes);
  if (call.weights !== undefined) {
    extents.add('weights', call.weights, ranks, 'in', (rank) => entries(rank) * WORD_BYTES);
  }
  extents.refuseOverlap();
}

export function checkWeightGradient(
  plan: Plan,
  localRanks: readonly number[],
  call: WeightGradientCall,
): void {
  const { ranks, tokens, entries, recvRows } = sizesOf(plan, localRanks);
  checkRowBytes('weight gradient', call.rowBytes);
  rowCodec(call.dtype, call.rowBytes);
  const extents = new Extents();
  extents.add('outputGradient', call.outputGradient, ranks, 'in', (rank) => tokens(rank) * call.rowBytes);
  extents.add('from', call.from, ranks, 'in', (rank) => recvRows(rank) * call.rowBytes);
  extents.add('to', call.to, ranks, 'out', (rank) => entries(rank) * WORD_BYTES);
  extents.refuseOverlap();
}

type RowBuffers = readonly [
  kind: 'in' | 'out',
  memories: readonly Memory[] | undefined,
  each: (count: number) => number,
];

/** Checks row work: every buffer has `each(count)` bytes for a rank's rows, and no output shares a byte with another. */
function checkRows(
  what: string,
  counts: readonly number[],
  ranks: number,
  lists: Record<string, RowBuffers>,
): void {
  if (counts.length !== ranks) {
    throw new FuscoError('E_BUFFER', `${what}: ${counts.length} numbers for ${ranks} ranks`, {
      limit: ranks,
    });
  }
  for (const count of counts) checkInteger(what, count, 0, MAX_ROWS);
  const extents = new Extents();
  for (const [name, [kind, memories, each]] of Object.entries(lists)) {
    if (memories !== undefined) extents.add(name, memories, ranks, kind, (rank) => each(counts[rank]!));
  }
  extents.refuseOverlap();
}

/** Throws E_OPTION, E_DTYPE or E_BUFFER for a call that does not fit together. `to` is what it writes. */
export function checkFp8(call: Fp8Call, ranks: number, to: 'codes' | 'values'): void {
  const { dtype, hidden, rows, values, codes, scales } = call;
  const size = DTYPE_BYTES[dtype];
  rowCodec(dtype, size);
  checkInteger('hidden', hidden, 1, MAX_ROW_BYTES / size);
  const [plain, coded] = to === 'codes' ? (['in', 'out'] as const) : (['out', 'in'] as const);
  checkRows('rows', rows, ranks, {
    values: [plain, values, (count) => count * hidden * size],
    codes: [coded, codes, (count) => count * hidden],
    scales: [coded, scales, (count) => count * scaleBlocks(hidden) * WORD_BYTES],
  });
}

/** Bytes of one word per (token, expert), and of one per (token, k). */
function gateSizes(options: GateOptions) {
  const { experts, topk } = resolveGate(options);
  return {
    ofExperts: (tokens: number) => tokens * experts * WORD_BYTES,
    ofEntries: (tokens: number) => tokens * topk * WORD_BYTES,
  };
}

/** Throws E_OPTION or E_BUFFER for a call that does not fit together. */
export function checkGate({ options, tokens, ...lists }: GateCall, ranks: number): void {
  const { ofExperts, ofEntries } = gateSizes(options);
  checkRows('tokens', tokens, ranks, {
    logits: ['in', lists.logits, ofExperts],
    bias: ['in', lists.bias, () => ofExperts(1)],
    ids: ['out', lists.ids, ofEntries],
    weights: ['out', lists.weights, ofEntries],
    scores: ['out', lists.scores, ofExperts],
  });
}

/** Throws E_OPTION or E_BUFFER for a call that does not fit together. Backends check the ids. */
export function checkGateBackward({ options, tokens, ...lists }: GateBackwardCall, ranks: number): void {
  const { ofExperts, ofEntries } = gateSizes(options);
  checkRows('tokens', tokens, ranks, {
    ids: ['in', lists.ids, ofEntries],
    scores: ['in', lists.scores, ofExperts],
    weightsGradient: ['in', lists.weightsGradient, ofEntries],
    logitsGradient: ['out', lists.logitsGradient, ofExperts],
  });
}
