// The memory that calls name: typed arrays of the caller, or addresses.

import { FuscoError } from '../planner/errors.ts';
import type { Dtype } from '../planner/spec.ts';

/** Memory outside of JavaScript's buffers, such as device memory. It must stay allocated until the call has settled. */
export interface ExternalMemory {
  readonly address: bigint;
  readonly bytes: number;
}

/**
 * Caller-owned memory: a Buffer, a typed array or DataView, Wasm memory through one, or an address. A typed array must
 * have the element type that the call states for it; bytes (Uint8Array, Buffer, DataView) are accepted everywhere.
 */
export type Memory = ArrayBufferView | ExternalMemory;

export function isExternal(memory: Memory): memory is ExternalMemory {
  // Untyped callers may pass null.
  return !ArrayBuffer.isView(memory) && typeof memory?.address === 'bigint';
}

/** The bytes of a view. */
export function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Throws E_BUFFER unless a buffer has the bytes that are needed. */
export function checkBytes(name: string, given: number, needed: number, rank?: number): void {
  if (Number.isSafeInteger(given) && given >= needed) return;
  throw new FuscoError('E_BUFFER', `${name} has ${given} bytes, ${needed} are needed`, {
    ...(rank === undefined ? {} : { rank }),
    value: given,
    limit: needed,
  });
}

/** The first `bytes` bytes of a buffer. Throws E_BUFFER if it has fewer, E_DTYPE if its elements are not of `type`. */
export function viewOf(name: string, memory: ArrayBufferView, bytes: number, type: ElementType): DataView {
  checkElements(name, memory, type);
  checkBytes(name, memory.byteLength, bytes);
  return new DataView(memory.buffer, memory.byteOffset, bytes);
}

/** Element type of a buffer. `bytes` is opaque. */
export type ElementType = Dtype | 'i32';

/** Typed arrays whose elements are of each type; f16 and bf16 as bits, because not every Node has a Float16Array. */
const ELEMENT_ARRAYS: Readonly<Record<Exclude<ElementType, 'bytes'>, readonly string[]>> = {
  f32: ['Float32Array'],
  f16: ['Uint16Array', 'Float16Array'],
  bf16: ['Uint16Array'],
  fp8: ['Uint8Array'],
  i32: ['Int32Array'],
};

/** Name of a view's class: Uint8Array for a Buffer, from any realm. */
function arrayName(memory: ArrayBufferView): string {
  return Object.prototype.toString.call(memory).slice(8, -1);
}

function isBytes(name: string): boolean {
  return name === 'Uint8Array' || name === 'DataView';
}

/**
 * Throws E_DTYPE for a typed array whose elements have another type, because its bytes would be misinterpreted. Bytes and
 * addresses have no type to compare.
 */
export function checkElements(name: string, memory: Memory, type: ElementType, rank?: number): void {
  if (type === 'bytes' || !ArrayBuffer.isView(memory)) return;
  const found = arrayName(memory);
  const wanted = ELEMENT_ARRAYS[type];
  if (isBytes(found) || wanted.includes(found)) return;
  throw new FuscoError('E_DTYPE', `${name}: ${found} for elements of ${type}, which take ${wanted[0]}`, {
    ...(rank === undefined ? {} : { rank }),
    value: found,
    limit: wanted[0]!,
    hint: `Convert the values to ${wanted[0]}, or give the same bytes as a Uint8Array.`,
  });
}

/** Throws E_DTYPE if opaque rows are read from one type of array and written to another, unless one of them is bytes. */
export function checkSameElements(name: string, from: readonly Memory[], to: readonly Memory[]): void {
  const typed = [...from, ...to].filter((memory) => ArrayBuffer.isView(memory)).map(arrayName);
  const names = [...new Set(typed.filter((found) => !isBytes(found)))];
  if (names.length < 2) return;
  throw new FuscoError('E_DTYPE', `${name}: rows of a ${names[0]} in a ${names[1]}`, {
    value: names[1]!,
    limit: names[0]!,
    hint: 'Rows are moved as bytes: give both sides the same type of array, or bytes as a Uint8Array.',
  });
}
