// A placement as `fusco plan` accepts it: the name of a rule, or a file with one entry per expert.

import { FuscoError } from '../../planner/errors.ts';
import {
  PLACEMENT_RULES,
  type PlacementMap,
  type PlacementRule,
  placementOf,
} from '../../planner/placement.ts';
import { readJson } from './json.ts';

/** The key of a map as some trainers write it: {"expert_to_ep_rank": [rank, …]}. */
export const EP_RANK_KEY = 'expert_to_ep_rank';

/**
 * The map of a JSON file, an array or an object with one at "expert_to_ep_rank"; the planner checks its entries.
 *
 * @throws FuscoError E_FORMAT, E_PLACEMENT and file errors
 */
export async function readPlacementFile(path: string): Promise<PlacementMap> {
  const value = await readJson(path);
  const map = Array.isArray(value) ? value : (value as Record<string, unknown> | null)?.[EP_RANK_KEY];
  if (Array.isArray(map) && map.length > 0) return map;
  throw new FuscoError(
    'E_PLACEMENT',
    `it is neither a JSON array, expert -> rank, nor has one at "${EP_RANK_KEY}"`,
    {
      path,
      hint: "`fusco placement convert` makes such an array from other tools' placements.",
    },
  );
}

/** The map of a rule's name, or of the file that the text names. Throws what readPlacementFile throws. */
export async function readPlacement(text: string, experts: number, ranks: number): Promise<PlacementMap> {
  const isRule = (PLACEMENT_RULES as readonly string[]).includes(text);
  return isRule ? placementOf(text as PlacementRule, experts, ranks) : readPlacementFile(text);
}
