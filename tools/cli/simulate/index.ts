import type { Command } from 'commander';
import { FuscoError } from '../../../planner/errors.ts';
import { loadPlanner } from '../../../planner/node.ts';
import { MODELS, type Model, namedModel } from '../../simulate/experts.ts';
import { TOPOLOGY_NAMES } from '../../simulate/topology.ts';
import { command, Notices } from '../io.ts';
import { integer } from '../options.ts';
import { addSubjectOptions, type Subject, type SubjectArguments, subjectsOf } from '../subject.ts';
import { simulateMeasured } from './measured.ts';
import { simulatePaper } from './paper.ts';
import { simulatePlacements } from './placements.ts';
import { simulateOne, simulateRecording } from './plans.ts';
import { type Sweep, simulateSweep, sweepOption } from './sweep.ts';

interface SimulateArguments extends SubjectArguments {
  placements?: string;
  expertBytes?: number;
  html?: string;
  topology?: string;
  calibration?: string;
  model?: string;
  intermediate?: number;
  modelLayers?: number;
  sweep?: Sweep;
  paper?: boolean;
  measured?: boolean;
  routing?: string;
  counts?: string;
  trace?: string;
  json?: boolean;
}

/** The experts that the options describe; undefined where the plan's sizes must tell. */
function modelOfArguments(args: SimulateArguments, { plan }: Subject): Model | undefined {
  const { model, intermediate, modelLayers: layers = 1 } = args;
  if (model !== undefined && intermediate !== undefined)
    throw new FuscoError('E_USAGE', 'give --model or --intermediate, not both');
  if (model !== undefined) return namedModel(model);
  if (intermediate === undefined) return undefined;
  const { hidden, experts, topk } = plan.spec;
  return { name: `${hidden} x ${intermediate}`, hidden, experts, topk, intermediate, layers };
}

async function simulatePlans(file: string, args: SimulateArguments): Promise<void> {
  const planner = await loadPlanner();
  const notices = new Notices();
  const subjects = subjectsOf(file, args, planner, notices.add);
  const first = (await subjects.next()).value as Subject;
  if (first.isGuess)
    notices.add(`${first.plan.spec.experts} experts: the largest id plus one; --experts sets their number`);
  const model = modelOfArguments(args, first);
  const { topology, calibration, trace, json } = args;
  const options = {
    notices,
    ...(topology === undefined ? {} : { topology }),
    ...(calibration === undefined ? {} : { calibration }),
    ...(trace === undefined ? {} : { trace }),
    ...(json === undefined ? {} : { json }),
    ...(model === undefined ? {} : { model }),
  };
  if (args.sweep !== undefined) return simulateSweep(first.plan, planner, args.sweep, options);
  const second = await subjects.next();
  if (second.done) return simulateOne(file, first, planner, options);
  async function* all() {
    yield first;
    yield second.value as Subject;
    yield* subjects;
  }
  return simulateRecording(file, all(), planner, options);
}

/** Refuses options that belong to the other mode. Throws E_USAGE. */
function checkPaper(file: string | undefined, args: SimulateArguments): void {
  const foreign = [
    file,
    args.topology,
    args.calibration,
    args.trace,
    args.sweep,
    args.model,
    args.placements,
  ];
  if (foreign.some((given) => given !== undefined)) {
    const text = '--paper brings its own plans, topology and calibration, and has no timeline';
    throw new FuscoError('E_USAGE', text);
  }
  if (args.routing !== undefined && args.counts !== undefined)
    throw new FuscoError('E_USAGE', 'give --routing or --counts, not both');
}

async function simulate(file: string | undefined, args: SimulateArguments, command: Command): Promise<void> {
  if (args.paper) {
    checkPaper(file, args);
    return simulatePaper(args);
  }
  if (args.routing !== undefined || args.counts !== undefined)
    throw new FuscoError('E_USAGE', '--routing and --counts are only valid with --paper');
  if (args.measured) return simulateMeasured(args);
  if (file === undefined)
    throw new FuscoError('E_USAGE', 'simulate needs a plan or a routing, or --paper or --measured');
  // Several names of one option are those of the other.
  const several = args.placement?.includes(',') ? args.placement : undefined;
  const placements = args.placements ?? several;
  if (placements !== undefined) {
    const { placements: _, placement, ...rest } = args;
    if (placement !== undefined && several !== placements)
      throw new FuscoError('E_USAGE', 'give --placements or --placement, not both');
    if (args.trace !== undefined || args.sweep !== undefined)
      throw new FuscoError('E_USAGE', '--placements cannot be combined with --trace or --sweep');
    const { strategy, ...others } = rest;
    const isGiven = command.getOptionValueSource('strategy') === 'cli';
    return simulatePlacements(file, { ...others, placements, ...(isGiven ? { strategy } : {}) });
  }
  if (args.expertBytes !== undefined || args.html !== undefined)
    throw new FuscoError('E_USAGE', '--expert-bytes and --html are only valid with --placements');
  return simulatePlans(file, args);
}

const EXAMPLES = `
Examples:
  fusco simulate step.fusco
  fusco simulate routing.npy --experts 256 --topology gb200-nvl72
  fusco simulate step.fusco --sweep tokens=128,1024,4096 --sweep topology=h100-nvl8,h200-2x8
  fusco simulate step.fusco --sweep replicas=0,2,16
  fusco simulate trace/ --experts 256 --layers 3-60
  fusco simulate recording/ --placements recorded,map.json --expert-bytes 88080384`;

export function simulateCommand(): Command {
  const made = command(
    'simulate',
    'Predict with a cost model what a plan or a routing costs on a cluster, and what other strategies would.',
  )
    .argument('[file]', 'a plan file, a routing or a recording')
    .option(
      '--topology <name|file>',
      `${TOPOLOGY_NAMES.join(', ')}, or a JSON file (default: H100, nodes of the plan)`,
    )
    .option('--calibration <file>', 'JSON file with constants that replace those of the topology')
    .option('--model <name>', `model whose experts are used: ${MODELS.map(({ name }) => name).join(', ')}`)
    .option(
      '--intermediate <n>',
      "columns of an expert's inner matrices, instead of --model",
      integer(1, 1 << 20),
    )
    .option('--model-layers <n>', 'number of layers with experts, with --intermediate', integer(1, 1 << 16))
    .option(
      '--sweep <name=values>',
      'predict for each value of tokens, ranks, capacity, replicas or topology',
      sweepOption,
    )
    .option(
      '--placements <list>',
      'plan each step of a recording under these placements: names of rules, recorded, JSON files; also --placement A,B,C',
    )
    .option(
      '--expert-bytes <n>',
      'with --placements: bytes of an expert, to estimate when moving from the first placement pays off',
      integer(1),
    )
    .option('--html <file>', 'with --placements: also write a report with charts as one HTML file')
    .option('--measured', 'show predictions next to the measurements of docs/performance-gpus.md')
    .option('--paper', 'show predictions next to the published evaluation of the FUSCO paper')
    .option('--routing <path>', 'with --paper: a routing of 64 ranks to use as the real traffic')
    .option('--counts <file>', 'with --paper: expert counts of layer --layer to use as the real traffic')
    .option('--trace <file>', 'write the timeline as Chrome trace JSON, for Perfetto')
    .option('--json', 'print one JSON object')
    .addHelpText('after', EXAMPLES)
    .action(simulate);
  return addSubjectOptions(made);
}
