// A placement map as people keep it: a JSON array, expert -> rank or list of ranks.

import { FuscoError } from '../../planner/errors.ts';
import type { PlacementMap } from '../../planner/placement.ts';
import { readJson } from './json.ts';

/** The map of a JSON file; its entries are the planner's to check. Throws E_FORMAT, E_PLACEMENT and file errors. */
export async function readPlacement(path: string): Promise<PlacementMap> {
  const value = await readJson(path);
  if (Array.isArray(value) && value.length > 0) return value;
  throw new FuscoError('E_PLACEMENT', 'it is not a JSON array, expert -> rank', { path });
}
