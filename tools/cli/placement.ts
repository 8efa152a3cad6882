import { type Command, Option } from 'commander';
import { FuscoError } from '../../planner/errors.ts';
import { MAX_INSTANCES, MAX_RANKS } from '../../planner/format/layout.ts';
import { checkRanksPerNode, defaultRanksPerNode, makePlacement } from '../../planner/placement.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import { sum } from '../../planner/totals.ts';
import { formatGrid } from '../figures/format.ts';
import { maxOverMean } from '../figures/summary.ts';
import { type Candidate, compareProposals, type Ratios } from '../placement/compareProposals.ts';
import {
  checkReplicas,
  FORMATS,
  type Format,
  fromLogical,
  fromPhysical,
  readLayer,
  slotCounts,
} from '../placement/convert.ts';
import { countChoices, type Imbalance } from '../placement/propose.ts';
import { quotaLoads } from '../placement/quotaLoads.ts';
import { readCountSteps } from '../readers/counts.ts';
import { readRouting } from '../readers/numpyRouting.ts';
import { readSteps } from '../readers/steps.ts';
import { writeFileAtomic } from '../writers/outputFile.ts';
import { command, printJson, say } from './io.ts';
import { decimal, integer, ranksPerNodeOption } from './options.ts';

interface ProposeArguments {
  output: string;
  counts?: string;
  layer?: number;
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
  format: Format;
  layer?: number;
  ranks: number;
  logcnt?: string;
  json?: boolean;
}

async function writeMap(path: string, map: unknown): Promise<void> {
  await writeFileAtomic(path, [new TextEncoder().encode(`${JSON.stringify(map)}\n`)]);
}

/** Rows of each expert in each step. */
async function readRows(args: ProposeArguments): Promise<number[][]> {
  const { counts: path, routing, experts } = args;
  if ((path === undefined) === (routing === undefined)) {
    throw new FuscoError('E_USAGE', 'give --counts or --routing, and not both');
  }
  if (path !== undefined) {
    const steps = await readCountSteps(path, args.layer);
    const found = steps[0]!.length;
    if (experts === undefined || experts === found) return steps;
    throw new FuscoError('E_OPTION', `--experts ${experts}, the file counts ${found}`, { path });
  }
  if (args.layer !== undefined) throw new FuscoError('E_USAGE', '--layer belongs to --counts');
  return countSteps(routing!, args);
}

/** Choices of each step of a recording, or of one routing, which may be for any number of ranks. */
async function countSteps(path: string, { ranks, experts: given }: ProposeArguments): Promise<number[][]> {
  const steps = await readSteps(path);
  const experts = given ?? steps[0]?.options?.experts;
  if (experts === undefined) throw new FuscoError('E_USAGE', '--routing needs --experts');
  const rows: number[][] = [];
  for (const { options, tables } of steps) {
    rows.push(
      countChoices(options === undefined ? await readAnyRouting(path, ranks) : await tables(), experts),
    );
  }
  return rows;
}

/** A routing however many ranks it is for; one array [tokens, topk] does not say, and then the split is ours. */
async function readAnyRouting(path: string, ranks: number): Promise<RoutingTable[]> {
  try {
    return await readRouting(path);
  } catch (error) {
    if (error instanceof FuscoError && error.code === 'E_RANKS') return readRouting(path, ranks);
    throw error;
  }
}

/** Ranks and nodes of a placement, for the rows of all steps together. */
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
  const steps = await readRows(args);
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
    const counted = { steps: steps.length - holdout, holdout, ...(target === undefined ? {} : { target }) };
    printJson({
      ...{ file: args.output, experts, ranks, replicas: proposed.replicas, before, after },
      ...{ ...counted, placements },
    });
    return;
  }
  say('rows of the busiest rank over the mean, under the replica rule quota-1:');
  say(candidateLines(candidates, steps.length, holdout));
  if (target !== undefined && proposed.steps.worst > target)
    say(`no placement was found that meets the target ${target}`);
  if (target === undefined && proposed.replicas < (replicas ?? 0))
    say(`${replicas! - proposed.replicas} of ${replicas} replicas found no rank of their own`);
  say(`${experts} experts and ${proposed.replicas} replicas on ${ranks} ranks -> ${args.output}`);
}

async function convert(file: string, args: ConvertArguments): Promise<void> {
  const { format, ranks, layer: at } = args;
  const layer = await readLayer(file, format, format === 'log2phy' ? 2 : 1, at);
  const converted = format === 'log2phy' ? fromLogical(layer, ranks, file) : fromPhysical(layer, ranks, file);
  if (args.logcnt !== undefined) {
    checkReplicas(await readLayer(args.logcnt, 'logcnt', 1, at), slotCounts(format, layer), args.logcnt);
  }
  const { map, merged, physical } = converted;
  await writeMap(args.output, map);
  if (merged > 0) {
    say(
      `${merged} of ${physical} physical experts share their rank with another replica and become one with it`,
    );
  }
  if (args.json) printJson({ file: args.output, experts: map.length, ranks, physical, merged });
  else say(`${map.length} experts, ${physical - merged} instances on ${ranks} ranks -> ${args.output}`);
}

export function placementCommand(): Command {
  const proposeCommand = command(
    'propose',
    'Pack experts on ranks, the busiest ones replicated, from their loads.',
  )
    .requiredOption('-o, --output <file>', 'the JSON map to write: expert -> rank or ranks')
    .option(
      '--counts <file>',
      'expert counts: {"logical_count": [layers][experts]} or [steps][layers][experts]',
    )
    .option('--layer <n>', 'layer of the count file (default: the sum of all)', integer(0))
    .option('--routing <path>', 'count the choices of a recording, step by step, or of one routing')
    .option('--experts <n>', 'logical experts (default: those of the file)', integer(1, MAX_INSTANCES))
    .requiredOption('--ranks <n>', 'ranks', integer(1, MAX_RANKS))
    .option(
      '--replicas <n>',
      'replicas to use, or with --target at most (default: 0)',
      integer(0, MAX_INSTANCES),
    )
    .option(
      '--target <ratio>',
      'fewest replicas so that no rank has more than RATIO x the mean in any step',
      decimal(1),
    )
    .option('--holdout <n>', 'last steps that only measure the proposal', integer(0), 0)
    .addOption(ranksPerNodeOption())
    .option('--json', 'one JSON object')
    .action(propose);
  const convertCommand = command('convert', "Read another tool's placement: EPLB's, or SGLang's.")
    .argument('<file>', '.npy or JSON, one layer or [layers]')
    .addOption(new Option('--format <name>', 'what the file holds').choices(FORMATS).makeOptionMandatory())
    .option('--layer <n>', 'layer of the file', integer(0))
    .requiredOption('--ranks <n>', 'ranks among which the physical experts are split', integer(1, MAX_RANKS))
    .option('--logcnt <file>', "EPLB's replica counts, to be compared with the map")
    .requiredOption('-o, --output <file>', 'the JSON map to write')
    .option('--json', 'one JSON object')
    .action(convert);
  return command('placement', 'Where experts live: propose a placement, or read one.')
    .addCommand(proposeCommand)
    .addCommand(convertCommand);
}
