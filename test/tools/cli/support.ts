// Routings and a plan that the tests of several commands share, with what the obvious plan says of them.

import { fuscoJson, save, saveRoutingByRank } from '../../support/cli.ts';
import { type ObviousRank, obviousPlan, type PlainRouting } from '../../support/obviousPlan.ts';
import { makeRouting } from '../../support/workloads.ts';

const SIZES = { ranks: 4, topk: 3, experts: 8 };
export const EVEN = makeRouting({ family: 'hotExperts', seed: 9, tokens: 10, masked: 0.1, ...SIZES });
export const RAGGED = makeRouting({ family: 'raggedSources', seed: 4, tokens: 30, masked: 0.1, ...SIZES });
export const PLACEMENT = [3, 3, [0, 2], 1, 0, 2, 1, 3];

export const ROW_BYTES = 16 * 4;
export const LAYOUT = ['--align', '4', '--capacity', '18', '--ranks-per-node', '2'];
export const ROW = ['--hidden', '16', '--dtype', 'f32'];

export function expectedPlan(routing: PlainRouting): ObviousRank[] {
  const options = { ranks: 4, experts: 8, align: 4, capacity: 18, ranksPerNode: 2, placement: PLACEMENT };
  return obviousPlan(routing, options);
}

/** Plans RAGGED with every option there is, as p.fusco. */
export async function planEverything(): Promise<Record<string, unknown>> {
  saveRoutingByRank('routing', RAGGED, 3);
  save('placement.json', JSON.stringify(PLACEMENT));
  return fuscoJson(
    'plan',
    'routing',
    '-o',
    'p.fusco',
    '--experts',
    '8',
    ...LAYOUT,
    ...ROW,
    '--placement',
    'placement.json',
  );
}
