// The memory that calls name: typed arrays of the caller, or addresses.

import { FuscoError } from '../planner/errors.ts';
import type { ExternalMemory, Memory } from './backends/types.ts';

export function isExternal(memory: Memory): memory is ExternalMemory {
  // Callers without types pass null, too.
  return !ArrayBuffer.isView(memory) && typeof memory?.address === 'bigint';
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
