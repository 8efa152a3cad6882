// `fusco simulate --paper`: predicts the evaluation of the FUSCO paper.

import { FuscoError } from '../../../planner/errors.ts';
import { loadPlanner } from '../../../planner/node.ts';
import type { RoutingTable } from '../../../planner/routing.ts';
import { countChoices, proposePlacement } from '../../placement/propose.ts';
import { layerOf, readCounts } from '../../readers/counts.ts';
import { readRouting } from '../../readers/numpyRouting.ts';
import {
  exchangesOf,
  IMBALANCED_SKEW,
  PLANNED_TOKENS,
  patternTables,
  reproducePaper,
} from '../../simulate/paper.ts';
import { constantLines, LABEL, paperLines } from '../../simulate/predictionText.ts';
import { FITTED_LENGTHS, PAPER } from '../../simulate/published.ts';
import { resampleTokens, sampleCounts } from '../../workload/families.ts';
import { demoFile } from '../demo.ts';
import { print, printJson } from '../io.ts';

/** The source of the traffic that is used as the paper's real traffic. */
export interface PaperArguments {
  routing?: string;
  counts?: string;
  layer?: number;
  json?: boolean;
}

/** The table that is used as the paper's real traffic, and its description. */
async function realTraffic(args: PaperArguments): Promise<{ tables: RoutingTable[]; what: string }> {
  const { ranks, topk, experts } = PAPER;
  const sizes = { seed: 1, ranks, tokens: PLANNED_TOKENS, topk };
  if (args.routing !== undefined) {
    const tables = await readRouting(args.routing, ranks);
    if (tables.some((table) => table.topk !== topk)) {
      throw new FuscoError('E_ROUTING_SHAPE', `topk ${tables[0]!.topk}, the paper has ${topk}`, {
        path: args.routing,
      });
    }
    return { tables, what: `the routing of ${args.routing}` };
  }
  if (args.counts !== undefined) {
    if (args.layer === undefined) throw new FuscoError('E_USAGE', '--counts needs --layer');
    const counts = layerOf(await readCounts(args.counts), args.layer, args.counts);
    if (counts.length !== experts) {
      throw new FuscoError('E_OPTION', `${counts.length} experts, the paper has ${experts}`, {
        path: args.counts,
      });
    }
    const what = `drawn from the expert counts of layer ${args.layer} in ${args.counts}, each expert by its share`;
    return { tables: sampleCounts(counts, sizes), what };
  }
  const recorded = await readRouting(demoFile('moe256-ep8x512-mixed-l3.idx.npy'));
  return {
    tables: resampleTokens(recorded, sizes),
    what: "each token repeats one of the demo's recorded tokens",
  };
}

/** Predicts the tables of the paper and prints them next to the published values. */
export async function simulatePaper(args: PaperArguments): Promise<void> {
  const planner = await loadPlanner();
  const { tables, what } = await realTraffic(args);
  const { ranks, ranksPerNode, experts } = PAPER;
  const { map, before, after } = proposePlacement(countChoices(tables, experts), { ranks, ranksPerNode });
  const patterns = patternTables(tables);
  const result = reproducePaper({
    real: exchangesOf(planner, patterns.real, map),
    'one-node': exchangesOf(planner, patterns['one-node']),
    imbalanced: exchangesOf(planner, patterns.imbalanced),
  });
  const { constants, setupUs, cells, ordered } = result;
  const real = { what, rankMaxOverMean: { blocks: before.rankMaxOverMean, packed: after.rankMaxOverMean } };
  if (args.json) {
    printJson({
      model: true,
      label: LABEL,
      fittedTokens: FITTED_LENGTHS,
      real,
      imbalancedSkew: IMBALANCED_SKEW,
      constants,
      setupUs,
      cells,
      ordered,
    });
    return;
  }
  print('the evaluation of the FUSCO paper: 8 nodes x 8 H100, hidden 7168, top-8 of 256');
  print(LABEL);
  print(`* fitted to the published times at ${FITTED_LENGTHS.join(' and ')} tokens, without: predicted\n`);
  print(paperLines(result));
  print(`\nevery row in the published order: ${ordered ? 'yes' : 'no'}\n`);
  print(
    `real: ${what};\n  experts packed on ranks, the busiest rank has ${after.rankMaxOverMean.toFixed(2)} x the mean`,
  );
  print(`imbalanced: the experts of a quarter of the ranks are ${IMBALANCED_SKEW} times as likely`);
  print(`planned at ${tables[0]!.tokens} tokens per rank (real), other lengths scaled from there`);
  const setups = Object.entries(setupUs).map(([name, us]) => `${name} ${us.toFixed(0)}`);
  print(`\nfitted: nicGBps, nvlinkGBps, permuteReached, overlap;\n  setupUs of ${setups.join(', ')}`);
  print(constantLines({ constants }));
}
