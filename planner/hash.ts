import { joinBytes } from './bytes.ts';

/** SHA-256 over the concatenation of `chunks`: 32 bytes. Injected, so that the planner needs no runtime of its own. */
export type Sha256 = (chunks: readonly Uint8Array[]) => Uint8Array | Promise<Uint8Array>;

/** SHA-256 by SubtleCrypto: browsers, Deno, Node. */
export const subtleSha256: Sha256 = async (chunks) =>
  new Uint8Array(await crypto.subtle.digest('SHA-256', joinBytes(chunks)));
