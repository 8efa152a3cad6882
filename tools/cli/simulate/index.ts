import { type Command, Option } from 'commander';
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
import { type SimulateOptions, simulateOne, simulateRecording } from './plans.ts';
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
  run?: string;
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
  const { topology, calibration, trace, run, json } = args;
  const options: SimulateOptions = { notices, topology, calibration, trace, run, json, model };
  const second = await subjects.next();
  if (args.sweep !== undefined) {
    if (!second.done)
      throw new FuscoError('E_USAGE', '--sweep needs one routing: select it with --step and --layer', {
        path: file,
      });
    return simulateSweep(first.plan, planner, args.sweep, options);
  }
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

/** The placements to compare: several names, or the recorded one; `--placements` is the older name of the option. */
function placementsOf({ placements, placement, html, expertBytes }: SimulateArguments): string | undefined {
  if (placements !== undefined && placement !== undefined)
    throw new FuscoError('E_USAGE', 'give --placement or --placements, not both');
  const isCompared = html !== undefined || expertBytes !== undefined || /,|^recorded$/.test(placement ?? '');
  return placements ?? (isCompared ? placement : undefined);
}

async function simulate(file: string | undefined, args: SimulateArguments): Promise<void> {
  if (args.paper) {
    checkPaper(file, args);
    return simulatePaper(args);
  }
  if (args.routing !== undefined || args.counts !== undefined)
    throw new FuscoError('E_USAGE', '--routing and --counts are only valid with --paper');
  if (args.measured) return simulateMeasured(args);
  if (file === undefined)
    throw new FuscoError('E_USAGE', 'simulate needs a plan or a routing, or --paper or --measured');
  const placements = placementsOf(args);
  if (placements !== undefined) {
    const { placements: _, placement: __, strategy, ...rest } = args;
    if (args.trace !== undefined || args.sweep !== undefined)
      throw new FuscoError('E_USAGE', 'several placements cannot be combined with --trace or --sweep');
    const isGiven = args.given?.has('strategy') === true;
    return simulatePlacements(file, { ...rest, placements, ...(isGiven ? { strategy } : {}) });
  }
  if (args.expertBytes !== undefined || args.html !== undefined)
    throw new FuscoError('E_USAGE', '--expert-bytes and --html are only valid with --placement A,B,C');
  return simulatePlans(file, args);
}

export function simulateCommand(): Command {
  const made = command(
    'simulate',
    'Predict with a cost model what a plan or a routing costs on a cluster, and what other strategies would.',
  )
    .argument('[file]', 'a plan file, a routing or a recording')
    .option('--json', 'print one JSON object')
    .optionsGroup('What to predict:')
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
    .option('--trace <file>', 'write the timeline as Chrome trace JSON, for Perfetto')
    .option(
      '--run <file>',
      'show the times that `fusco run --json` printed for this plan next to the prediction',
    )
    .optionsGroup('Several placements, with --placement A,B,C:')
    .addOption(new Option('--placements <list>').hideHelp())
    .option(
      '--expert-bytes <n>',
      'bytes of an expert, to estimate when moving from the first placement pays off',
      integer(1),
    )
    .option('--html <file>', 'also write a report with charts as one HTML file')
    .optionsGroup('How good the model is:')
    .option('--measured', 'show predictions next to the measurements of docs/performance-gpus.md')
    .option('--paper', 'show predictions next to the published evaluation of the FUSCO paper')
    .option('--routing <path>', 'with --paper: a routing of 64 ranks to use as the real traffic')
    .option('--counts <file>', 'with --paper: expert counts of layer --layer to use as the real traffic')
    .action(simulate);
  return addSubjectOptions(made);
}
