import { joinBytes } from './bytes.ts';

/** SHA-256 over the concatenation of `chunks`: 32 bytes. Injected, so that the planner does not depend on a runtime. */
export type Sha256 = (chunks: readonly Uint8Array[]) => Uint8Array | Promise<Uint8Array>;

/** An incremental SHA-256, for files that are larger than memory. SubtleCrypto has none. */
export interface RunningHash {
  update(bytes: Uint8Array): unknown;
  /** 32 bytes. */
  digest(): Uint8Array;
}

/** Both hash functions, for chunked plans; in Node, use nodeHashing. */
export interface Hashing {
  readonly sha256: Sha256;
  readonly running: () => RunningHash;
}

/** SHA-256 by SubtleCrypto: browsers, Deno, Node. */
export const subtleSha256: Sha256 = async (chunks) =>
  new Uint8Array(await crypto.subtle.digest('SHA-256', joinBytes(chunks)));
