import { joinBytes } from './bytes.ts';

/** SHA-256 over the concatenation of `chunks`: 32 bytes. Injected, so that the planner needs no runtime of its own. */
export type Sha256 = (chunks: readonly Uint8Array[]) => Uint8Array | Promise<Uint8Array>;

/** A SHA-256 that takes its input in pieces: for files that are larger than memory. SubtleCrypto has none. */
export interface RunningHash {
  update(bytes: Uint8Array): unknown;
  /** 32 bytes. */
  digest(): Uint8Array;
}

/** Both ways to hash, for chunked plans; nodeHashing in Node. */
export interface Hashing {
  readonly sha256: Sha256;
  readonly running: () => RunningHash;
}

/** SHA-256 by SubtleCrypto: browsers, Deno, Node. */
export const subtleSha256: Sha256 = async (chunks) =>
  new Uint8Array(await crypto.subtle.digest('SHA-256', joinBytes(chunks)));
