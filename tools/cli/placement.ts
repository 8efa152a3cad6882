import type { Command } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES, MAX_RANKS } from '../../planner/format/layout.ts';
import { checkRanksPerNode, defaultRanksPerNode, makePlacement } from '../../planner/placement.ts';
import { sum } from '../../planner/totals.ts';
import { formatGrid } from '../figures/format.ts';
import { maxOverMean } from '../figures/summary.ts';
import { type Candidate, compareProposals, type Ratios } from '../placement/compareProposals.ts';
import { checkReplicas, convertLayer, type Target } from '../placement/convert.ts';
import { FORMATS, type Format, NAMES, readLayer, readPlacementLayer } from '../placement/placementFile.ts';
import { countChoices, type Imbalance } from '../placement/propose.ts';
import { quotaLoads } from '../placement/quotaLoads.ts';
import { readCountSteps } from '../readers/counts.ts';
import { explaining } from '../readers/origins.ts';
import { writeOutput } from '../writers/outputFile.ts';
import { checkStdout, command, Notices, printJson, say } from './io.ts';
import {
  addRoutingOptions,
  choice,
  decimal,
  integer,
  needs,
  oneLayer,
  type RoutingArguments,
  ranksPerNodeOption,
  recordingChoice,
} from './options.ts';
import { routingsOf } from './subject.ts';

/** Values of `--format` of convert, with other names of formats. */
const FORMAT_NAMES: Readonly<Record<string, Format | undefined>> = {
  auto: undefined,
  ...Object.fromEntries(FORMATS.map((format) => [format, format])),
  trtllm: 'phy2log',
  physical_to_logical_map: 'phy2log',
};

interface ProposeArguments extends RoutingArguments {
  output: string;
  counts?: string;
  routing?: string;
  experts?: number;
  ranks: number;
  replicas?: number;
  target?: number;
  holdout: number;
  ranksPerNode?: number;
  json?: boolean;
}

interface ConvertArguments {
  output: string;
  format: string;
  layer?: number;
  ranks: number;
  slots?: number;
  logcnt?: string;
  json?: boolean;
}

async function writeMap(path: string, map: unknown): Promise<void> {
  await writeOutput(path, [new TextEncoder().encode(`${JSON.stringify(map)}\n`)]);
}

/** Rows of each expert in each step. */
async function readRows(args: ProposeArguments, notices: Notices): Promise<number[][]> {
  const { counts: path, routing, experts } = args;
  if ((path === undefined) === (routing === undefined)) {
    throw new FuscoError('E_USAGE', 'give --counts or --routing, and not both');
  }
  if (path !== undefined) {
    const steps = await readCountSteps(path, args.layer);
    const found = steps[0]!.length;
    if (experts === undefined || experts === found) return steps;
    throw new FuscoError('E_OPTION', `--experts ${experts}, the file counts ${found}`, {
      path,
      hint: 'Leave out --experts, or give the number that the file counts.',
    });
  }
  return countSteps(routing!, args, notices);
}

/** Choices of each step of a recording, or of one routing or plan, which may be for any number of ranks. */
async function countSteps(path: string, args: ProposeArguments, notices: Notices): Promise<number[][]> {
  const { ranks: _, ...what } = args;
  const steps = await routingsOf(path, { ...recordingChoice(what, notices.add), anyRanks: true });
  oneLayer(steps, path);
  const experts = args.experts ?? steps[0]?.options?.experts;
  if (experts === undefined) throw new FuscoError('E_USAGE', '--routing needs --experts');
  const rows: number[][] = [];
  for (const step of steps) {
    const tables = await step.tables();
    rows.push(await explaining(tables, experts, () => countChoices(tables, experts)));
  }
  return rows;
}

/** Loads of the ranks and nodes of a placement, for the rows of all steps together. */
function imbalance(
  { map }: Candidate,
  rows: readonly number[],
  ranks: number,
  ranksPerNode: number,
): Imbalance {
  const { loads } = quotaLoads(makePlacement(rows.length, ranks, map), rows);
  const nodes = Array.from({ length: ranks / ranksPerNode }, (_, node) =>
    sum(loads.subarray(node * ranksPerNode, (node + 1) * ranksPerNode)),
  );
  return { rankMaxOverMean: maxOverMean([...loads]), nodeMaxOverMean: maxOverMean(nodes) };
}

/** One line per candidate. */
function candidateLines(candidates: readonly Candidate[], steps: number, holdout: number): string {
  const columns = (count: number, what: string, ratios: (made: Candidate) => Ratios | undefined) => {
    if (count === 0) return [];
    const column = (head: string, of: keyof Ratios) => [
      head,
      ...candidates.map((made) => ratios(made)![of].toFixed(3)),
    ];
    const worst = column(count === 1 ? `1 ${what}` : `worst of ${count} ${what}s`, 'worst');
    return count === 1 ? [worst] : [worst, column('mean', 'mean')];
  };
  const grid = [
    ['placement', ...candidates.map(({ name }) => name)],
    ['replicas', ...candidates.map(({ replicas }) => String(replicas))],
    ...columns(steps - holdout, 'step', (made) => made.steps),
    ...columns(holdout, 'later step', (made) => made.later),
  ];
  return formatGrid(grid[0]!.map((_, row) => grid.map((column) => column[row]!)));
}

async function propose(args: ProposeArguments): Promise<void> {
  checkStdout(args.output, '-o', args);
  const notices = new Notices();
  const steps = await readRows(args, notices);
  const { ranks, replicas, target, holdout } = args;
  const ranksPerNode = checkRanksPerNode(args.ranksPerNode ?? defaultRanksPerNode(ranks), ranks);
  const candidates = compareProposals(steps, {
    ...{ ranks, ranksPerNode, holdout },
    ...(replicas === undefined ? {} : { replicas }),
    ...(target === undefined ? {} : { target }),
  });
  const [blocks, , , proposed] = candidates as [Candidate, Candidate, Candidate, Candidate];
  await writeMap(args.output, proposed.map);
  const experts = steps[0]!.length;
  const total = steps[0]!.map((_, expert) =>
    sum(steps.slice(0, steps.length - holdout).map((rows) => rows[expert]!)),
  );
  if (args.json) {
    const [before, after] = [blocks, proposed].map((made) => imbalance(made, total, ranks, ranksPerNode));
    const placements = candidates.map(({ map: _, ...figures }) => figures);
    printJson({
      ...{ file: args.output, experts, ranks, replicas: proposed.replicas, before, after },
      ...{ steps: steps.length - holdout, holdout, target, placements, ...notices.fields },
    });
    return;
  }
  notices.say();
  say('rows of the busiest rank over the mean, under the replica rule quota-1:');
  say(candidateLines(candidates, steps.length, holdout));
  if (target !== undefined && proposed.steps.worst > target)
    say(`no placement was found that meets the target ${target}`);
  if (target === undefined && proposed.replicas < (replicas ?? 0))
    say(`${replicas! - proposed.replicas} of ${replicas} replicas found no rank of their own`);
  say(`${experts} experts and ${proposed.replicas} replicas on ${ranks} ranks -> ${args.output}`);
}

async function convert(file: string, args: ConvertArguments): Promise<void> {
  checkStdout(args.output, '-o', args);
  const { ranks, slots, layer: at } = args;
  const notices = new Notices();
  const found = await readPlacementLayer(file, FORMAT_NAMES[args.format], at);
  const target: Target = { ranks, slots, path: file };
  const converted = convertLayer(found, target);
  if (args.logcnt !== undefined) {
    const counts = await readLayer(args.logcnt, NAMES.logcnt, 1, at);
    checkReplicas(counts, converted.slots, { ...target, path: args.logcnt });
  }
  const { map, merged, physical, unused } = converted;
  const { format } = found;
  await writeMap(args.output, map);
  if (found.isGuess) notices.add(`${file}: an array of three axes read as ${format}`);
  const total = physical + unused;
  if ((format === 'phy2log' || format === 'log2phy') && total % ranks !== 0) {
    notices.add(`${total} slots on ${ranks} ranks: the first ${total % ranks} have one more`);
  }
  if (unused > 0) notices.add(`${unused} of ${total} slots are empty`);
  if (merged > 0) {
    notices.add(
      `${merged} of ${physical} physical experts share their rank with another replica and become one with it`,
    );
  }
  if (args.json) {
    printJson({ file: args.output, experts: map.length, ranks, format, physical, merged, ...notices.fields });
    return;
  }
  notices.say();
  say(`${map.length} experts, ${physical - merged} instances on ${ranks} ranks -> ${args.output}`);
}

export function placementCommand(): Command {
  const proposeCommand = command(
    'propose',
    'Propose a placement from the loads of the experts, with replicas of busy ones.',
  )
    .option('-o, --output <file>', 'the JSON map to write: expert -> rank or ranks (required)')
    .option(
      '--counts <file>',
      'expert counts, of one step or several; without --layer, the sum of all layers',
    )
    .option('--routing <path>', 'count the choices of a recording, step by step, or of one routing or plan')
    .option('--experts <n>', 'logical experts (default: those of the file)', integer(1, MAX_INSTANCES))
    .option('--ranks <n>', 'number of ranks (required)', integer(1, MAX_RANKS))
    .option(
      '--replicas <n>',
      'number of replicas; with --target, the maximum (default: 0)',
      integer(0, MAX_INSTANCES),
    )
    .option(
      '--target <ratio>',
      'use the fewest replicas with which no rank has more than RATIO x the mean in any step',
      decimal(1),
    )
    .option(
      '--holdout <n>',
      'number of last steps that are excluded from the proposal and only measure it',
      integer(0),
      0,
    )
    .addOption(ranksPerNodeOption())
    .option('--json', 'print one JSON object')
    .hook('preAction', needs('output', 'ranks'))
    .action(propose);
  const convertCommand = command(
    'convert',
    'Convert a placement of EPLB, SGLang, vLLM, vllm-ascend or TensorRT-LLM.',
  )
    .argument('<file>', '.npy, .npz, .pt, .safetensors, JSON or YAML; one layer or [layers]')
    .addOption(
      choice(
        '--format <name>',
        'format of the file, if its fields do not identify it',
        Object.keys(FORMAT_NAMES),
      ),
    )
    .option('--layer <n>', 'layer of the file', integer(0))
    .option(
      '--ranks <n>',
      'ranks among which the physical experts are split (required)',
      integer(1, MAX_RANKS),
    )
    .option('--slots <n>', 'physical slots of a log2phy, if the last ones are empty', integer(1, 1 << 20))
    .option('--logcnt <file>', 'replica counts of EPLB, which are compared with the map')
    .option('-o, --output <file>', 'the JSON map to write (required)')
    .option('--json', 'print one JSON object')
    .hook('preAction', needs('output', 'ranks'))
    .action(convert);
  return command('placement', 'Propose a placement of experts on ranks, or convert one of another tool.')
    .addCommand(addRoutingOptions(proposeCommand))
    .addCommand(convertCommand);
}
