// The memory that calls name: typed arrays of the caller, or addresses.

import { FuscoError } from '../planner/errors.ts';

/** Memory outside of JavaScript's buffers, such as device memory. It must stay allocated until the call has settled. */
export interface ExternalMemory {
  readonly address: bigint;
  readonly bytes: number;
}

/** Caller-owned memory: a Buffer, any typed array or DataView, Wasm memory through one, or an address. */
export type Memory = ArrayBufferView | ExternalMemory;

export function isExternal(memory: Memory): memory is ExternalMemory {
  // Callers without types pass null, too.
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

/** The first `bytes` bytes of a buffer. Throws E_BUFFER if it has fewer. */
export function viewOf(name: string, memory: ArrayBufferView, bytes: number): DataView {
  checkBytes(name, memory.byteLength, bytes);
  return new DataView(memory.buffer, memory.byteOffset, bytes);
}
