// What native code says of a plan file.

import { findAddon } from '../../executor/native/addon.ts';

/** Paths of the C interface are shorter. */
const MAX_PATH = 63;

export const ACCEPTED = 'accepted';

/** A refusal, to be compared. */
export function verdict(code: string, path = ''): string {
  return `${code} ${path.slice(0, MAX_PATH)}`;
}

/** The refusal of native code, or ACCEPTED; undefined without the addon. */
export function nativeVerdict(bytes: Uint8Array): string | undefined {
  const { addon } = findAddon();
  if (addon === undefined) return undefined;
  try {
    new addon.PlanFile(bytes).close();
    return ACCEPTED;
  } catch (error) {
    const { code, path } = error as { code: string; path?: string };
    return verdict(code, path);
  }
}
