import { type Command, Option } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES } from '../../planner/format/layout.ts';
import { loadPlanner } from '../../planner/node.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { countChoices, proposePlacement } from '../placement/propose.ts';
import { layerOf, readCounts } from '../readers/counts.ts';
import { readRouting } from '../readers/numpyRouting.ts';
import { readVerifiedPlan } from '../readers/planFile.ts';
import { encodeTrace, traceOf } from '../simulate/chromeTrace.ts';
import { compare, type Prediction } from '../simulate/compare.ts';
import {
  exchangesOf,
  IMBALANCED_SKEW,
  PLANNED_TOKENS,
  patternTables,
  reproducePaper,
} from '../simulate/paper.ts';
import {
  bindingStage,
  comparisonLines,
  constantLines,
  paperLines,
  resourceName,
  strategyName,
  timelineLines,
} from '../simulate/predictionText.ts';
import { FITTED_LENGTHS, PAPER } from '../simulate/published.ts';
import { findTopology } from '../simulate/topology.ts';
import { resampleTokens, sampleCounts } from '../workload/families.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { demoFile } from './demo.ts';
import { command, print, printJson, say } from './io.ts';
import { integer } from './options.ts';
import { simulatePlacements, type WhatIfArguments } from './simulatePlacements.ts';

interface SimulateArguments extends Partial<WhatIfArguments> {
  paper?: boolean;
  routing?: string;
  counts?: string;
  layer?: number;
  trace?: string;
}

const LABEL = 'model: predicted from a cost model, not measured';

function predictionJson(prediction: Prediction) {
  const { name, resource, rank } = bindingStage(prediction);
  return { ...prediction, bound: { stage: name, resource, rank } };
}

async function simulatePlan(file: string, args: SimulateArguments): Promise<void> {
  if (args.topology === undefined) throw new FuscoError('E_USAGE', 'simulate needs --topology, or --paper');
  const topology = await findTopology(args.topology, args.calibration);
  const { plan, planId } = await readVerifiedPlan(file);
  const { predictions, own } = compare(plan, await loadPlanner(), topology);
  if (args.trace !== undefined) {
    await writeFileAtomic(args.trace, [encodeTrace(traceOf(plan, topology))]);
    say(`timeline of ${plan.spec.ranks} ranks -> ${args.trace} (open it in ui.perfetto.dev)`);
  }
  if (args.json) {
    printJson({
      model: true,
      label: LABEL,
      planId,
      topology,
      own,
      strategies: predictions.map(predictionJson),
    });
    return;
  }
  const { ranks, ranksPerNode } = plan.spec;
  const made = predictions[own]!;
  const stage = bindingStage(made);
  print(`${file} on ${topology.name}\n${LABEL}`);
  print(`plan ${planId.slice(0, 12)}: ${strategyName(made)}, ${ranks} ranks, ${ranksPerNode} a node\n`);
  print(comparisonLines(predictions, own));
  if (stage.us > 0) {
    print(
      `\n* this plan waits longest for the ${resourceName(stage)} of rank ${stage.rank}, in "${stage.name}"`,
    );
  }
  print(
    `\ntime from left to right: # at work, - at work and waiting for slices\n${timelineLines(predictions)}`,
  );
  print(`\nconstants\n${constantLines(topology)}`);
}

/** The table that stands for the paper's real traffic, and what it is. */
async function realTraffic(args: SimulateArguments): Promise<{ tables: RoutingTable[]; what: string }> {
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

async function simulatePaper(args: SimulateArguments): Promise<void> {
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
  print(`planned at ${tables[0]!.tokens} tokens a rank (real), other lengths scaled from there`);
  const setups = Object.entries(setupUs).map(([name, us]) => `${name} ${us.toFixed(0)}`);
  print(`\nfitted: nicGBps, nvlinkGBps, permuteReached, overlap;\n  setupUs of ${setups.join(', ')}`);
  print(constantLines({ constants }));
}

async function simulate(file: string | undefined, args: SimulateArguments): Promise<void> {
  if (args.paper === true) {
    if (
      [file, args.topology, args.calibration, args.trace, args.placement].some((given) => given !== undefined)
    ) {
      throw new FuscoError(
        'E_USAGE',
        '--paper brings its own plans, topology and calibration, and has no timeline',
      );
    }
    if (args.routing !== undefined && args.counts !== undefined) {
      throw new FuscoError('E_USAGE', 'give --routing or --counts, not both');
    }
    return simulatePaper(args);
  }
  if (args.routing !== undefined || args.counts !== undefined || args.layer !== undefined) {
    throw new FuscoError('E_USAGE', '--routing, --counts and --layer belong to --paper');
  }
  if (file === undefined) throw new FuscoError('E_USAGE', 'simulate needs a plan file, or --paper');
  const { placement } = args;
  if (placement !== undefined) {
    if (args.trace !== undefined) throw new FuscoError('E_USAGE', '--trace belongs to a plan file');
    return simulatePlacements(file, { ...args, placement }, LABEL);
  }
  const { experts, strategy, expertBytes, html } = args;
  if ([experts, strategy, expertBytes, html].some((given) => given !== undefined)) {
    throw new FuscoError('E_USAGE', '--experts, --strategy, --expert-bytes and --html belong to --placement');
  }
  return simulatePlan(file, args);
}

export function simulateCommand(): Command {
  return command(
    'simulate',
    'Predict what a plan costs on a cluster, and what other ways to exchange would: a model.',
  )
    .argument('[file]', 'a plan file, or with --placement a recording or a routing')
    .option('--topology <name|file>', 'h100-8x8, h200-nvl8, h200-8x8, or a JSON file')
    .option('--calibration <file>', "JSON file with constants in place of the topology's")
    .option(
      '--placement <list>',
      'plan each step of a recording under these: blocks, recorded, JSON files; A,B,C',
    )
    .option(
      '--expert-bytes <n>',
      'bytes of an expert: when does moving from the first placement pay',
      integer(1),
    )
    .option('--experts <n>', 'logical experts (default: those of the recording)', integer(1, MAX_INSTANCES))
    .addOption(
      new Option('--strategy <name>', 'how rows travel (default: as recorded)').choices([
        'flat',
        'hier',
        'auto',
      ]),
    )
    .option('--paper', "predict the FUSCO paper's evaluation, next to what it published")
    .option('--routing <path>', 'with --paper: a 64-rank routing as its real traffic')
    .option('--counts <file>', 'with --paper: expert counts as its real traffic')
    .option('--layer <n>', 'layer of the count file', integer(0))
    .option('--html <file>', 'with --placement: also write a report with charts, one HTML file')
    .option('--trace <file>', 'write the timeline as Chrome trace JSON, for Perfetto')
    .option('--json', 'one JSON object')
    .action(simulate);
}
