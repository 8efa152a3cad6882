import { FuscoError } from './errors.ts';
import { alignSection } from './format/shard.ts';
import { type Addr, ELEMENT_BYTES, type Element } from './wasm.ts';

const PAGE_BYTES = 65536;

/**
 * Bump allocation in the planner's Wasm memory: everything above `base`, 64-byte aligned. Memory grows only in
 * `alloc`, never while the Wasm runs; views are made per use, since growing detaches them.
 */
export class Arena {
  readonly memory: WebAssembly.Memory;
  readonly #base: number;
  #end: number;

  constructor(memory: WebAssembly.Memory, base: number) {
    this.memory = memory;
    this.#base = alignSection(base);
    this.#end = this.#base;
  }

  /** Forgets every allocation. */
  reset(): void {
    this.#end = this.#base;
  }

  /** The current end, to be passed to `release` later. */
  mark(): number {
    return this.#end;
  }

  release(mark: number): void {
    this.#end = mark;
  }

  /** Address of `bytes` uninitialized bytes. Throws E_MEMORY beyond the largest size of a Wasm memory. */
  alloc(bytes: number): number {
    const at = this.#end;
    const end = alignSection(at + bytes);
    const missing = end - this.memory.buffer.byteLength;
    if (missing > 0) {
      try {
        this.memory.grow(Math.ceil(missing / PAGE_BYTES));
      } catch (cause) {
        throw new FuscoError('E_MEMORY', `the planner needs ${end} bytes of Wasm memory`, {
          value: end,
          cause,
        });
      }
    }
    this.#end = end;
    return at;
  }

  /** Address of `length` uninitialized elements. */
  array<T extends Element>(element: T, length: number): Addr<T> {
    return this.alloc(ELEMENT_BYTES[element] * length) as Addr<T>;
  }

  /** Address of `length` zeroed u32. */
  zeroed(length: number): Addr<'u32'> {
    const at = this.array('u32', length);
    this.u32(at, length).fill(0);
    return at;
  }

  /** Address of a block of `length` words: the given words, by their number, and zeros elsewhere. */
  block(length: number, words: Readonly<Record<number, number>>): Addr<'block'> {
    const at = this.array('block', length);
    const block = this.u32(at, length);
    for (let word = 0; word < length; word++) block[word] = words[word] ?? 0;
    return at;
  }

  /** Address of a copy of `values`. */
  copy(values: Uint32Array): Addr<'u32'>;
  copy(values: Uint16Array): Addr<'u16'>;
  copy(values: ArrayBufferView): number;
  copy(values: ArrayBufferView): number {
    const at = this.alloc(values.byteLength);
    this.bytes(at, values.byteLength).set(
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    );
    return at;
  }

  bytes(at: number, length: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, at, length);
  }

  u16(at: Addr<'u16'>, length: number): Uint16Array {
    return new Uint16Array(this.memory.buffer, at, length);
  }

  u32(at: Addr<'u32' | 'block'>, length: number): Uint32Array {
    return new Uint32Array(this.memory.buffer, at, length);
  }
}
