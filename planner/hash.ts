/** SHA-256 over the concatenation of `chunks`: 32 bytes. Injected, so that the planner needs no runtime of its own. */
export type Sha256 = (chunks: readonly Uint8Array[]) => Uint8Array | Promise<Uint8Array>;

/** SHA-256 by SubtleCrypto: browsers, Deno, Node. */
export const subtleSha256: Sha256 = async (chunks) => {
  let length = 0;
  for (const chunk of chunks) length += chunk.length;
  const joined = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    joined.set(chunk, at);
    at += chunk.length;
  }
  return new Uint8Array(await crypto.subtle.digest('SHA-256', joined));
};

export function hex(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += byte.toString(16).padStart(2, '0');
  return text;
}

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
