import { basename, join } from 'node:path';
import { type Command, Option } from 'commander';
import { planAllNatively } from '../../executor/native/planner.ts';
import { planChunked } from '../../planner/chunked.ts';
import { FuscoError } from '../../planner/errors.ts';
import { encodePlanChunks } from '../../planner/format/encode.ts';
import { MAX_INSTANCES, MAX_RANKS, MAX_ROW_BYTES, MAX_ROWS } from '../../planner/format/layout.ts';
import { loadPlanner, nodeHashing, nodeSha256 } from '../../planner/node.ts';
import type { VerifiedPlan } from '../../planner/plan.ts';
import type { Planner, Progress } from '../../planner/planner.ts';
import type { RoutingTable } from '../../planner/routing.ts';
import {
  type Balance,
  type Dtype,
  type PartialDtype,
  type PlanOptions,
  REPLICA_RULES,
  type ReplicaRule,
  type Strategy,
  type SumOrder,
} from '../../planner/spec.ts';
import { formatBytes, formatCount } from '../figures/format.ts';
import { readAnyRouting } from '../readers/anyRouting.ts';
import { explaining } from '../readers/origins.ts';
import { readPlacement } from '../readers/placementMap.ts';
import { readRoutings } from '../readers/recording.ts';
import { withProgress } from '../terminal/progress.ts';
import { OutputDirectory, writeFileAtomic, writeOutput } from '../writers/outputFile.ts';
import { checkStdout, command, Notices, printJson, say } from './io.ts';
import {
  addRangeOptions,
  addRoutingOptions,
  choice,
  integer,
  type NodeArguments,
  needs,
  nodeOptions,
  type RangeArguments,
  type RoutingArguments,
  ranksPerNodeOf,
  recordedName,
  recordingChoice,
  routingChoice,
} from './options.ts';
import { assumedLines, choiceLines, lostEntries, lostLines, predictChoices } from './planNotes.ts';

const BALANCES = ['static', 'rotate', 'lpt', 'best'];

/** The planning options. */
export interface PlanningArguments extends NodeArguments {
  experts: number;
  ranks?: number;
  ranksPerHost?: number;
  hidden: number;
  dtype: Dtype;
  combineDtype?: Dtype;
  align: number;
  capacity?: number;
  maxRows?: number;
  strategy: Strategy | 'auto';
  balance: Balance;
  partial: PartialDtype;
  sum: SumOrder;
  placement?: string;
  replicas: ReplicaRule;
  tileTokens: number;
}

interface PlanArguments extends PlanningArguments, RoutingArguments, RangeArguments {
  output?: string;
  planner: 'wasm' | 'native';
  stream?: boolean;
  json?: boolean;
}

/**
 * The options of the planner according to the arguments; `notice` receives a line for every default that needs to be
 * mentioned.
 */
export async function planningOptions(
  args: PlanningArguments,
  ranks: number,
  notice: (text: string) => void,
): Promise<PlanOptions> {
  const { experts, hidden, dtype, align, capacity = 0, strategy, tileTokens, balance, partial } = args;
  const { sum, replicas, combineDtype, ranksPerHost, maxRows, placement } = args;
  return {
    ...{ experts, ranks, hidden, dtype, align, capacity, strategy, tileTokens, balance, partial },
    ...{ sum, replicas, ranksPerNode: ranksPerNodeOf(args, ranks, notice) },
    ...(combineDtype === undefined ? {} : { combineDtype }),
    ...(ranksPerHost === undefined ? {} : { ranksPerHost }),
    ...(maxRows === undefined ? {} : { maxRows }),
    ...(placement === undefined ? {} : { placement: await readPlacement(placement, experts, ranks) }),
  };
}

/** The default output file of a routing, in the current directory. */
function defaultOutput(routing: string): string {
  if (routing === '-') return 'stdin.fusco';
  return `${basename(routing).replace(/\.(npy|npz|pt|json|jsonl|safetensors)$/, '')}.fusco`;
}

async function plan(routing: string, args: PlanArguments, command: Command): Promise<void> {
  if (args.steps !== undefined || args.layers !== undefined) return planRecording(routing, args);
  const output = args.output ?? defaultOutput(routing);
  checkStdout(output, '-o', args);
  if (output === '-' && args.stream)
    throw new FuscoError('E_USAGE', '-o - plans in memory and cannot be combined with --stream');
  const { ranks, experts } = args;
  const notices = new Notices();
  const tables = await withProgress('reading', (progress) =>
    readAnyRouting(routing, { ...routingChoice(args, notices.add), ranks, experts, progress }),
  );
  const options = await planningOptions(args, tables.length, notices.add);
  const planner = await loadPlanner();
  const { length, planId, made, memoryBytes } = await explaining(tables, experts, () =>
    writePlan(planner, tables, options, output, args),
  );
  const choices = made?.decision.reason ? predictChoices(planner, tables, options, made) : undefined;
  if (args.json) {
    const found = { ...(made && lostEntries(made)), auto: choices, ...notices.fields };
    printJson({ planId, file: output, bytes: length, plannerMemoryBytes: memoryBytes, ...found });
    return;
  }
  notices.say();
  const entries = tables.reduce((sum, table) => sum + table.ids.length, 0);
  const what = `${tables.length} ranks, ${formatCount(entries)} entries, ${formatBytes(length)}`;
  const memory = memoryBytes === undefined ? '' : ` (planner memory ${formatBytes(memoryBytes)})`;
  say(`plan ${planId.slice(0, 12)}: ${what}${memory} -> ${output}`);
  for (const line of assumedLines(command, options)) say(line);
  if (made !== undefined) for (const line of lostLines(made)) say(line);
  if (choices !== undefined) for (const line of choiceLines(choices)) say(line);
}

/** Plans every step and layer of a recording into a directory of plan files. */
async function planRecording(routing: string, args: PlanArguments): Promise<void> {
  if (args.stream || args.step !== undefined || args.layer !== undefined)
    throw new FuscoError(
      'E_USAGE',
      '--steps and --layers cannot be combined with --step, --layer or --stream',
    );
  const directory = args.output ?? defaultOutput(routing).replace(/\.fusco$/, '-plans');
  await OutputDirectory.create(directory);
  const planner = await loadPlanner();
  const notices = new Notices();
  const files: { step?: number; layer?: number; planId: string; file: string }[] = [];
  for await (const { tables, ...number } of readRoutings(routing, recordingChoice(args, notices.add))) {
    const options = await planningOptions(args, tables.length, notices.add);
    const file = join(directory, `${recordedName(number)}.fusco`);
    const { planId, made } = await explaining(tables, args.experts, () =>
      writePlan(planner, tables, options, file, args),
    );
    files.push({ ...number, planId, file });
    if (args.json) continue;
    say(`plan ${planId.slice(0, 12)} -> ${file}`);
    for (const line of lostLines(made!)) say(line);
  }
  if (args.json) {
    printJson({ plans: files, ...notices.fields });
    return;
  }
  notices.say();
  say(`${formatCount(files.length)} plans -> ${directory}`);
}

interface Written {
  readonly length: number;
  readonly planId: string;
  /** Missing if the plan was never in memory as a whole. */
  readonly made?: VerifiedPlan;
  /** Of the Wasm planner. */
  readonly memoryBytes?: number;
}

/** Plans with the chosen planner and writes the file. */
async function writePlan(
  planner: Planner,
  tables: readonly RoutingTable[],
  options: PlanOptions,
  output: string,
  { planner: name, stream }: Pick<PlanArguments, 'planner' | 'stream'>,
): Promise<Written> {
  if (name === 'native') {
    if (stream)
      throw new FuscoError('E_OPTION', '--planner native plans whole groups: leave out --stream', {
        hint: 'Give --stream or --planner native.',
      });
    return writeWhole(output, (progress) => planAllNatively(tables, options, progress));
  }
  const written = stream
    ? await writeStream(planner, tables, options, output)
    : await writeWhole(output, (progress) => planner.planAll(tables, options, progress));
  return { ...written, memoryBytes: planner.memoryBytes };
}

/** Writes the same bytes as writeWhole, with one shard in memory at a time. */
async function writeStream(
  planner: Planner,
  tables: readonly RoutingTable[],
  options: PlanOptions,
  output: string,
): Promise<Written> {
  const table = (rank: number) => tables[rank]!;
  const plan = await withProgress('planning', (progress) =>
    planChunked(planner, table, options, nodeHashing, progress),
  );
  await withProgress('writing', (progress) => writeFileAtomic(output, plan.chunks(progress)));
  return plan;
}

async function writeWhole(output: string, planAll: (progress: Progress) => VerifiedPlan): Promise<Written> {
  const planned = await withProgress('planning', async (progress) => planAll(progress));
  const encoded = await encodePlanChunks(planned, nodeSha256);
  await writeOutput(output, encoded.chunks);
  return { length: encoded.length, planId: encoded.planId, made: planned };
}

/** The heading of the planning options. */
export const PLANNING_GROUP = 'How to plan:';

/** Adds the planning options. */
export function addPlanningOptions(command: Command): Command {
  const made = command
    .optionsGroup(PLANNING_GROUP)
    .option(
      '--ranks <n>',
      'number of ranks (default: the number of blocks in the routing)',
      integer(1, MAX_RANKS),
    );
  return nodeOptions(made)
    .option(
      '--ranks-per-host <n>',
      'ranks per machine; --strategy auto assumes fast links inside a machine (default: the ranks per node)',
      integer(1, MAX_RANKS),
    )
    .option('--hidden <n>', 'elements of a row', integer(1, MAX_ROW_BYTES), 7168)
    .addOption(
      choice('--dtype <dtype>', 'dtype of a row that dispatch moves; bytes means opaque bytes', [
        'bf16',
        'f16',
        'f32',
        'fp8',
        'bytes',
      ]),
    )
    .addOption(
      new Option(
        '--combine-dtype <dtype>',
        'dtype of a row that combine returns (default: --dtype; bf16 for fp8)',
      ).choices(['bf16', 'f16', 'f32', 'bytes']),
    )
    .option('--align <n>', 'pad the rows of every expert to a multiple of this', integer(1, 1 << 20), 1)
    .option(
      '--capacity <n>',
      'maximum rows of one expert instance; others are dropped (default: no limit)',
      integer(1, MAX_ROWS),
    )
    .option(
      '--max-rows <n>',
      'fail if a rank would receive more rows (default: no limit)',
      integer(1, MAX_ROWS),
    )
    .addOption(choice('--strategy <name>', 'how rows travel', ['flat', 'hier', 'auto']))
    .addOption(
      choice('--balance <rule>', 'rule that chooses forwarders, in hierarchical plans', BALANCES, 'best'),
    )
    .addOption(
      choice('--partial <dtype>', 'dtype of the partial sums of a hierarchical combine', ['payload', 'f32']),
    )
    .addOption(
      choice(
        '--sum <order>',
        'order in which a hierarchical combine adds: by node, or by token, with the same bits on any number of ranks',
        ['node', 'token'],
      ),
    )
    .option(
      '--tile-tokens <n>',
      'tokens per tile; the plan orders the stores of each tile; 0: no tiles',
      integer(0, 256),
      0,
    )
    .option(
      '--placement <rule|file>',
      'blocks, remainder-first, round-robin, or a JSON array: for each expert a rank or a list of ranks (default: blocks)',
    )
    .addOption(
      choice(
        '--replicas <rule>',
        'which instance of an expert on several ranks takes a row',
        REPLICA_RULES,
        'quota-1',
      ),
    );
}

export function planCommand(): Command {
  const made = command(
    'plan',
    'Plan a routing table: .npy, .npz, a directory of rank{r}.npy [tokens, topk], or a recording of a serving or training framework.',
  )
    .argument('<routing>', 'expert ids; -1 means no expert')
    .option(
      '-o, --output <file>',
      'the plan file to write, or a directory for several; - is standard output (default: the name of the routing)',
    )
    .option('--experts <n>', 'logical experts (required)', integer(1, MAX_INSTANCES))
    .addOption(
      choice('--planner <name>', 'planner to use; both write the same bytes; native needs the addon', [
        'wasm',
        'native',
      ]),
    )
    .option('--stream', 'keep only one shard in memory, for plans larger than memory; plans every rank twice')
    .option('--json', 'print one JSON object')
    .hook('preAction', needs('experts'))
    .action(plan);
  return addRangeOptions(addRoutingOptions(addPlanningOptions(made)));
}
