// How a plan file starts: a msgpack array, then the string "FUSCOPLN".

/** Whether a file is a plan, by its first bytes. */
export function isPlan(bytes: Uint8Array): boolean {
  return new TextDecoder('latin1').decode(bytes.subarray(0, 16)).includes('FUSCOPLN');
}
