// Checks of a call before a backend sees it: one buffer per local rank, large enough, and no output overlaps another
// buffer.

import { checkChoice, checkInteger, checkKeys, FuscoError } from '../planner/errors.ts';
import { MAX_ROW_BYTES, MAX_ROWS } from '../planner/format/layout.ts';
import { DTYPE_BYTES } from '../planner/spec.ts';
import type { ExchangeCalls, ExchangeKind, Fp8Call, Memory, RowWorkCalls } from './backends/types.ts';
import { checkBytes, checkElements, checkSameElements, type ElementType, isExternal } from './memory.ts';
import { type FloatDtype, rowCodec } from './numeric.ts';
import { scaleBlocks } from './training/fp8.ts';
import { resolveGate } from './training/gating.ts';

/** Bytes of an i32 or f32. */
const WORD_BYTES = 4;
/** Bytes of the origin of a row: source rank, token and k, an i32 each. */
export const ORIGIN_BYTES = 3 * WORD_BYTES;

/** One buffer per local rank, read or written, of which `counts[rank] * bytesEach` bytes are used. */
type BufferList = readonly [
  kind: 'in' | 'out',
  memories: readonly Memory[] | undefined,
  counts: readonly number[],
  bytesEach: number,
  elements: ElementType,
];

/** The buffers of a call, by the names that errors use for them. Lists that the call does not have are undefined. */
type BufferLists = Readonly<Record<string, BufferList>>;

/** The bytes of a buffer: a range of one ArrayBuffer, or of the process's address space. */
interface Extent {
  readonly space: ArrayBufferLike | undefined;
  readonly start: bigint;
  readonly end: bigint;
  readonly name: string;
  readonly isOutput: boolean;
}

function extentOf(memory: Memory, name: string, needed: number, rank: number, isOutput: boolean): Extent {
  const external = isExternal(memory);
  if (!external && !ArrayBuffer.isView(memory)) {
    throw new FuscoError('E_BUFFER', `${name} is neither a typed array nor {address, bytes}`, {
      rank,
      hint: 'Give a typed array, a DataView, or memory as {address, bytes}.',
    });
  }
  checkBytes(name, external ? memory.bytes : memory.byteLength, needed, rank);
  const start = external ? memory.address : BigInt(memory.byteOffset);
  const space = external ? undefined : memory.buffer;
  return { space, start, end: start + BigInt(needed), name, isOutput };
}

/** Sorted by start. If two start at the same place, an input comes before an output. */
function compareExtents(a: Extent, b: Extent): number {
  if (a.start !== b.start) return a.start < b.start ? -1 : 1;
  return Number(a.isOutput) - Number(b.isOutput);
}

/** Throws E_BUFFER if an output shares a byte with another output or an input in the same address space. */
function refuseOverlap(extents: readonly Extent[]): void {
  let furthest: Extent | undefined;
  let furthestOutput: Extent | undefined;
  for (const extent of extents.toSorted(compareExtents)) {
    const other = extent.isOutput ? furthest : furthestOutput;
    if (other !== undefined && other.end > extent.start) {
      throw new FuscoError('E_BUFFER', `${extent.name} overlaps ${other.name}`);
    }
    if (furthest === undefined || extent.end > furthest.end) furthest = extent;
    if (extent.isOutput && (furthestOutput === undefined || extent.end > furthestOutput.end))
      furthestOutput = extent;
  }
}

/** Throws E_BUFFER unless every list has a large enough buffer for each rank and no output overlaps another buffer. */
function checkBuffers(ranks: number, lists: BufferLists): void {
  const spaces = new Map<unknown, Extent[]>();
  for (const [name, [kind, memories, counts, bytesEach, elements]] of Object.entries(lists)) {
    if (memories === undefined) continue;
    refuseOtherRanks(name, 'buffers', memories.length, ranks);
    for (const [rank, memory] of memories.entries()) {
      const needed = counts[rank]! * bytesEach;
      const label = `${name} of rank ${rank}`;
      checkElements(label, memory, elements, rank);
      const extent = extentOf(memory, label, needed, rank, kind === 'out');
      if (needed === 0) continue;
      const list = spaces.get(extent.space) ?? [];
      spaces.set(extent.space, list);
      list.push(extent);
    }
  }
  for (const extents of spaces.values()) refuseOverlap(extents);
}

function refuseOtherRanks(name: string, what: string, found: number, ranks: number): void {
  if (found === ranks) return;
  throw new FuscoError('E_BUFFER', `${name}: ${found} ${what} for ${ranks} ranks`, {
    limit: ranks,
    hint: 'Give one for each local rank.',
  });
}

function checkRowBytes(name: string, rowBytes: number): void {
  if (Number.isInteger(rowBytes) && rowBytes >= 1 && rowBytes <= MAX_ROW_BYTES) return;
  throw new FuscoError('E_BUFFER', `${name}: rows of ${rowBytes} bytes are outside 1..${MAX_ROW_BYTES}`, {
    value: rowBytes,
    limit: MAX_ROW_BYTES,
    hint: `Give rowBytes from 1 to ${MAX_ROW_BYTES}.`,
  });
}

function checkFloatRows(name: string, dtype: FloatDtype, rowBytes: number): void {
  checkRowBytes(name, rowBytes);
  rowCodec(dtype, rowBytes);
}

const PAYLOAD_KEYS = ['rowBytes', 'from', 'to', 'per', 'dtype'];
const FP8_KEYS = ['dtype', 'hidden', 'rows', 'values', 'codes', 'scales'];
/** Every property of each call. */
const CALL_KEYS: { readonly [Kind in keyof (ExchangeCalls & RowWorkCalls)]: readonly string[] } = {
  dispatch: ['payloads', 'origins', 'scale'],
  combine: ['dtype', 'rowBytes', 'from', 'to', 'weights'],
  weightGradient: ['dtype', 'rowBytes', 'outputGradient', 'from', 'to'],
  combineGradient: [
    ...['dtype', 'rowBytes', 'outputGradient', 'from', 'weights'],
    ...['to', 'weightsGradient', 'origins'],
  ],
  quantize: FP8_KEYS,
  dequantize: FP8_KEYS,
  gate: ['options', 'tokens', 'logits', 'bias', 'ids', 'weights', 'scores'],
  gateBackward: ['options', 'tokens', 'ids', 'scores', 'weightsGradient', 'logitsGradient'],
};

/** The sizes of a plan that calls are checked against: [local ranks] each. */
export type Sizes = Readonly<Record<'tokens' | 'entries' | 'recvRows', readonly number[]>>;

const EXCHANGES: {
  readonly [Kind in ExchangeKind]: (call: ExchangeCalls[Kind], sizes: Sizes) => BufferLists;
} = {
  dispatch: ({ payloads, origins, scale }, { tokens, entries, recvRows }) => {
    const lists: Record<string, BufferList> = {};
    payloads.forEach((payload, p) => {
      const { rowBytes, from, to, per, dtype = 'bytes' } = payload;
      checkKeys(`payload ${p}`, payload, PAYLOAD_KEYS);
      checkChoice(`payload ${p}: dtype`, dtype, Object.keys(DTYPE_BYTES));
      checkRowBytes(`payload ${p}`, rowBytes);
      if (per !== undefined) checkChoice(`payload ${p}: per`, per, ['token', 'entry']);
      if (scale !== undefined && per !== 'entry') rowCodec(dtype, rowBytes);
      if (dtype === 'bytes') checkSameElements(`payload ${p}`, from, to);
      lists[`payload ${p}: from`] = ['in', from, per === 'entry' ? entries : tokens, rowBytes, dtype];
      lists[`payload ${p}: to`] = ['out', to, recvRows, rowBytes, dtype];
    });
    lists.origins = ['out', origins, recvRows, ORIGIN_BYTES, 'i32'];
    lists.scale = ['in', scale, entries, WORD_BYTES, 'f32'];
    return lists;
  },
  combine: ({ dtype, rowBytes, from, to, weights }, { tokens, entries, recvRows }) => {
    checkFloatRows('combine', dtype, rowBytes);
    return {
      from: ['in', from, recvRows, rowBytes, dtype],
      to: ['out', to, tokens, rowBytes, dtype],
      weights: ['in', weights, entries, WORD_BYTES, 'f32'],
    };
  },
  weightGradient: ({ dtype, rowBytes, outputGradient, from, to }, { tokens, entries, recvRows }) => {
    checkFloatRows('weight gradient', dtype, rowBytes);
    return {
      outputGradient: ['in', outputGradient, tokens, rowBytes, dtype],
      from: ['in', from, recvRows, rowBytes, dtype],
      to: ['out', to, entries, WORD_BYTES, 'f32'],
    };
  },
  combineGradient: (call, { tokens, entries, recvRows }) => {
    const { dtype, rowBytes } = call;
    checkFloatRows('combine gradient', dtype, rowBytes);
    return {
      outputGradient: ['in', call.outputGradient, tokens, rowBytes, dtype],
      from: ['in', call.from, recvRows, rowBytes, dtype],
      weights: ['in', call.weights, entries, WORD_BYTES, 'f32'],
      to: ['out', call.to, recvRows, rowBytes, dtype],
      weightsGradient: ['out', call.weightsGradient, entries, WORD_BYTES, 'f32'],
      origins: ['out', call.origins, recvRows, ORIGIN_BYTES, 'i32'],
    };
  },
};

/** Throws E_BUFFER, E_DTYPE or E_OPTION unless the call fits the plan. */
export function checkExchange<Kind extends ExchangeKind>(
  sizes: Sizes,
  kind: Kind,
  call: ExchangeCalls[Kind],
): void {
  checkKeys(kind, call, CALL_KEYS[kind]);
  checkBuffers(sizes.tokens.length, EXCHANGES[kind](call, sizes));
}

function fp8Buffers(call: Fp8Call, plain: 'in' | 'out', coded: 'in' | 'out'): BufferLists {
  const { dtype, hidden, rows, values, codes, scales } = call;
  const size = DTYPE_BYTES[dtype];
  rowCodec(dtype, size);
  checkInteger('hidden', hidden, 1, MAX_ROW_BYTES / size);
  return {
    values: [plain, values, rows, hidden * size, dtype],
    codes: [coded, codes, rows, hidden, 'fp8'],
    scales: [coded, scales, rows, scaleBlocks(hidden) * WORD_BYTES, 'f32'],
  };
}

const ROW_WORK: { readonly [Kind in keyof RowWorkCalls]: (call: RowWorkCalls[Kind]) => BufferLists } = {
  quantize: (call) => fp8Buffers(call, 'in', 'out'),
  dequantize: (call) => fp8Buffers(call, 'out', 'in'),
  gate: ({ options, tokens, logits, bias, ids, weights, scores }) => {
    const { experts, topk } = resolveGate(options);
    return {
      logits: ['in', logits, tokens, experts * WORD_BYTES, 'f32'],
      bias: ['in', bias, tokens.map(() => experts), WORD_BYTES, 'f32'],
      ids: ['out', ids, tokens, topk * WORD_BYTES, 'i32'],
      weights: ['out', weights, tokens, topk * WORD_BYTES, 'f32'],
      scores: ['out', scores, tokens, experts * WORD_BYTES, 'f32'],
    };
  },
  // The backends check the ids.
  gateBackward: ({ options, tokens, ids, scores, weightsGradient, logitsGradient }) => {
    const { experts, topk } = resolveGate(options);
    return {
      ids: ['in', ids, tokens, topk * WORD_BYTES, 'i32'],
      scores: ['in', scores, tokens, experts * WORD_BYTES, 'f32'],
      weightsGradient: ['in', weightsGradient, tokens, topk * WORD_BYTES, 'f32'],
      logitsGradient: ['out', logitsGradient, tokens, experts * WORD_BYTES, 'f32'],
    };
  },
};

/** Throws E_OPTION, E_DTYPE or E_BUFFER for a call whose parts do not fit together or do not fit `ranks` local ranks. */
export function checkRowWork<Kind extends keyof RowWorkCalls>(
  ranks: number,
  kind: Kind,
  call: RowWorkCalls[Kind],
): void {
  checkKeys(kind, call, CALL_KEYS[kind]);
  const lists = ROW_WORK[kind](call);
  const [what, counts] = 'rows' in call ? (['rows', call.rows] as const) : (['tokens', call.tokens] as const);
  refuseOtherRanks(what, 'numbers', counts.length, ranks);
  for (const count of counts) checkInteger(what, count, 0, MAX_ROWS);
  checkBuffers(ranks, lists);
}
