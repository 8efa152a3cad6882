// A placement map as people keep it: a JSON array, expert -> rank or list of ranks.

import { FuscoError } from '../../planner/errors.ts';
import type { PlacementMap } from '../../planner/placement.ts';
import { readWhole } from './file.ts';
import { parseJson } from './json.ts';

/** The map of a JSON file; its entries are the planner's to check. Throws E_FORMAT, E_PLACEMENT and file errors. */
export async function readPlacement(path: string): Promise<PlacementMap> {
  const text = new TextDecoder().decode(await readWhole(path));
  let value: unknown;
  try {
    value = parseJson(text);
  } catch (cause) {
    throw new FuscoError('E_FORMAT', `${path}: ${(cause as Error).message}`, { cause });
  }
  if (!Array.isArray(value) || value.length === 0) {
    throw new FuscoError('E_PLACEMENT', `${path}: it is not a JSON array, expert -> rank`);
  }
  return value;
}
